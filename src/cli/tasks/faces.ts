import { basename, join } from "node:path";
import { RepmlpError } from "../../errors.ts";
import { openClassifier } from "../../inference/node/index.ts";
import { mustBeForm } from "../../models/index.ts";
import { embeddersOf, type FaceIdentification, faceGallery, identifyFaces } from "../../tasks/node/index.ts";
import type { Call } from "../table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";
import { writeText } from "../write-text.ts";
import type { TaskView } from "./view.ts";

/** Identification: how many pictures of people are nearest to the first one of their person. */
async function test({ args, options, io }: Call<"test">): Promise<1 | undefined> {
  const { weights, data, mode } = args;
  const { batchSize, threads, distractors, output } = options;
  const file = await openClassifier(weights, weightsOptions(options));
  const progress = io.progress();
  try {
    noteRemarks(io, weights, file.remarks);
    const form = mode === "deploy" ? mode : "train";
    mustBeForm({ name: file.arch ?? basename(weights), form: file.form ?? form, numClasses: undefined }, form, weights);
    if (mode === "check" && !file.net)
      throw new RepmlpError(
        "test/check",
        `${weights}: an ONNX file has one form only. Give the training checkpoint.`,
        "usage",
      );
    const folder = join(data, "val");
    const people = await faceGallery(folder, distractors);
    const embedders = await embeddersOf(file, {
      ...{ batchSize, forms: mode === "check" ? ["train", "deploy"] : [form] },
      ...(threads !== undefined && { compile: { threads } }),
      onBatch: (done, total) => progress.update({ done, total, label: "pictures" }),
    });
    const found: (FaceIdentification & { readonly form: string })[] = [];
    try {
      for (const { name, embed } of embedders) found.push({ form: name, ...(await identifyFaces(embed, people)) });
    } finally {
      await Promise.all(embedders.map(({ dispose }) => dispose()));
    }
    progress.stop();
    const [{ people: count, probes, distractors: others }] = found;
    const record = {
      format: "repmlp-identification/1",
      ...{ weights: basename(weights), people: count, probes, distractors: others },
      forms: Object.fromEntries(found.map(({ form: name, rankOne }) => [name, { rankOne }])),
    };
    io.result({ type: "result", ...record }, () =>
      [
        `${probes} pictures of ${count} people, a gallery with one of each${others ? ` and ${others} of others` : ""}`,
        ...found.map(({ form: name, rankOne }) => `${name} form: rank-1 ${(100 * rankOne).toFixed(2)} %`),
      ].join("\n"),
    );
    if (output !== undefined) await writeText(output, `${JSON.stringify(record, undefined, 2)}\n`);
    return undefined;
  } finally {
    progress.stop();
    file.close();
  }
}

/** Embeddings say nothing of one picture alone. */
async function predict(): Promise<never> {
  throw new RepmlpError(
    "predict/task",
    "predict: the network makes embeddings of faces, which say nothing of one picture alone. Write them with `repmlp embed`, or compare pairs with `repmlp verify-faces`.",
    "usage",
  );
}

export const view: TaskView = { test, predict };
