import { extname } from "node:path";
import { must } from "../../errors.ts";
import { openClassifier } from "../../inference/node/index.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { embeddersOf, encodeNpy } from "../../tasks/node/index.ts";
import type { Run } from "../table.ts";
import { mustServe } from "../tasks/index.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";
import { writeBytes, writeText } from "../write-text.ts";

const lines = (paths: readonly string[], rows: readonly Float64Array[]): string[] =>
  paths.map((image, i) => JSON.stringify({ image, embedding: Array.from(rows[i], Math.fround) }));

/** How vectors are written, by the ending of the file's name. */
const writers: Readonly<
  Record<string, (path: string, paths: readonly string[], rows: readonly Float64Array[]) => Promise<void>>
> = {
  ".npy": (path, _, rows) => writeBytes(path, encodeNpy(rows, rows[0].length)),
  ".jsonl": (path, paths, rows) => writeText(path, `${lines(paths, rows).join("\n")}\n`),
};

/** Writes embeddings of pictures. */
export const run: Run<"embed"> = async ({ args: { weights, image: images }, options, io }) => {
  const { output, mirror, batchSize, threads } = options;
  const write = output === undefined ? undefined : writers[extname(output).toLowerCase()];
  must(
    output === undefined || write,
    "embed/format",
    () => `embed: ${output} must end in ${Object.keys(writers).join(" or ")}, which says what is written.`,
    "usage",
  );
  registerNode();
  const file = await openClassifier(weights, weightsOptions(options));
  const progress = io.progress();
  try {
    noteRemarks(io, weights, file.remarks);
    mustServe("embed", file.task.kind, weights);
    // Both forms give the same vectors; the merged one takes less time.
    const [{ embed, dispose }] = await embeddersOf(file, {
      ...{ mirror, batchSize, forms: ["deploy"] },
      ...(threads !== undefined && { compile: { threads } }),
      onBatch: (done, total) => progress.update({ done, total, label: "pictures" }),
    });
    const rows = await embed(images).finally(dispose);
    progress.stop();
    if (output === undefined || !write) {
      for (const [i, line] of lines(images, rows).entries())
        io.result({ image: images[i], embedding: Array.from(rows[i], Math.fround) }, () => line);
      return undefined;
    }
    await write(output, images, rows);
    io.result(
      { output, pictures: rows.length, features: rows[0].length },
      () => `${output}: ${rows.length} vectors of ${rows[0].length} numbers`,
    );
    return undefined;
  } finally {
    progress.stop();
    file.close();
  }
};
