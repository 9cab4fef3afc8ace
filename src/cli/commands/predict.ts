import { preprocess } from "../../data/index.ts";
import { readPicture } from "../../data/node/index.ts";
import { describePreprocessing } from "../../data/preprocessing/preprocess.ts";
import { must } from "../../errors.ts";
import { parseClassNames } from "../../inference/class-names.ts";
import { openClassifier } from "../../inference/node/classifier.ts";
import { rankClasses } from "../../inference/rank.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { Tensor } from "../../tensor/index.ts";
import { readText } from "../read-text.ts";
import type { Run } from "../table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";

/** Classifies pictures, one after the other. */
export const run: Run<"predict"> = async ({ args: { weights, image: images }, options, io }) => {
  registerNode();
  const { topK, labels: labelFile } = options;
  const classifier = await openClassifier(weights, weightsOptions(options));
  noteRemarks(io, weights, classifier.remarks);
  const { preprocessing, classes } = classifier;
  const labels = labelFile === undefined ? classifier.labels : parseClassNames(await readText(labelFile), labelFile);
  must(
    !labels || labels.length === classes,
    "predict/labels",
    () =>
      `${labelFile ?? weights}: has ${labels?.length} labels, the network ${classes} classes. Name them with --labels.`,
    "usage",
  );
  io.note(`${[classifier.arch, classifier.form && `${classifier.form} form`].filter(Boolean).join(", ") || weights}`);
  io.note(describePreprocessing(preprocessing));
  const compiled = await classifier.compile();
  for (const image of images) {
    const values = preprocess(await readPicture(image), preprocessing);
    const logits = await compiled.run(new Tensor("float32", [1, ...preprocessing.inputSize], values));
    const ranked = rankClasses(logits.data as Float32Array, topK).map((r) => ({ ...r, label: labels?.[r.index] }));
    io.result({ image, topK: ranked }, () =>
      [
        image,
        ...ranked.map(
          ({ index, probability, label }) =>
            `  ${(100 * probability).toFixed(2).padStart(6)} %  ${label === undefined ? `class ${index}` : `${label} (${index})`}`,
        ),
      ].join("\n"),
    );
  }
  await compiled.dispose();
  classifier.close();
  return undefined;
};
