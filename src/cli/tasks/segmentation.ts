import { mkdir } from "node:fs/promises";
import { basename, join, parse } from "node:path";
import { classNamesOf, encodePalettePng, maskPairs } from "../../data/node/index.ts";
import { must, RepmlpError } from "../../errors.ts";
import { parseClassNames } from "../../inference/class-names.ts";
import { type Classifier, openClassifier } from "../../inference/node/index.ts";
import { mustBeForm } from "../../models/index.ts";
import { convertToDeploy } from "../../reparam/index.ts";
import { overlayPage } from "../../report/node/overlay-page.ts";
import { classColors, classOfPixels, overlay, type SegmentationScores } from "../../tasks/index.ts";
import { type PixelTest, Segmenter, type SegmenterOptions, testPixels } from "../../tasks/node/index.ts";
import { Tensor } from "../../tensor/index.ts";
import { shown } from "../../text.ts";
import { eachPicture } from "../each-picture.ts";
import type { Io } from "../io.ts";
import { readText } from "../read-text.ts";
import type { Call } from "../table.ts";
import { grouped, scientific, textTable } from "../text-table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";
import { writeBytes, writeText } from "../write-text.ts";
import type { TaskView } from "./view.ts";

/** Share of the pixels to which both forms must give the same class. */
const AGREEMENT = 0.9999;

/** Pictures on a page of overlays. */
const SHOWN = 8;

const percent = (share: number, digits = 2): string => `${(100 * share).toFixed(digits)} %`;

/** What the masks of a file's data mean: what the file says, see `stated` of the workflow. */
const labelsOf = ({ task }: Classifier): { ignoreLabel?: number; fromOne?: boolean } => ({
  ...(typeof task.ignoreLabel === "number" && { ignoreLabel: task.ignoreLabel }),
  ...(task.fromOne === true && { fromOne: true }),
});

const namesOf = (labels: readonly string[] | undefined, classes: number): readonly string[] =>
  labels ?? Array.from({ length: classes }, (_, i) => `class ${i}`);

type TileOptions = Pick<Call<"predict">["options"], "mirror" | "scales" | "stride" | "whole">;

const segmenterOptions = (
  { mirror, scales, stride, whole }: TileOptions,
  batchSize?: number,
  threads?: number,
): SegmenterOptions => ({
  ...{ mirror, scales, stride, whole, batchSize },
  ...(threads !== undefined && { compile: { threads } }),
});

/** Scores of pixels on a part of a data set, of one form or both. */
async function test({ args, options, io }: Call<"test">): Promise<1 | undefined> {
  const { weights, data, mode } = args;
  const { part = "val", batchSize, threads, output, overlays } = options;
  const file = await openClassifier(weights, weightsOptions(options));
  const progress = io.progress();
  const forms: Segmenter[] = [];
  try {
    noteRemarks(io, weights, file.remarks);
    const form = mode === "deploy" ? mode : "train";
    mustBeForm({ name: file.arch ?? basename(weights), form: file.form ?? form, numClasses: undefined }, form, weights);
    const own = segmenterOptions(options, batchSize, threads);
    forms.push(Segmenter.ofFile(file, own));
    if (mode === "check") {
      if (!file.net)
        throw new RepmlpError(
          "test/check",
          `${weights}: an ONNX file has one form only. Give the training checkpoint.`,
          "usage",
        );
      forms.push(Segmenter.ofNet(convertToDeploy(file.net.initialize()), file.preprocessing, own));
    }
    const pairs = await maskPairs(data, part);
    const names = namesOf(file.labels ?? (await classNamesOf(data)), file.classes);
    io.note(`${file.arch ?? basename(weights)}, ${file.form ?? "unknown"} form; ${pairs.length} pictures of ${part}`);
    const result = await testPixels(forms, pairs, file.classes, {
      ...labelsOf(file),
      onPicture: (done, total) => progress.update({ done, total, label: "pictures" }),
    });
    progress.stop();
    warnOfAbsent(result.scores[0], names, io);
    if (overlays !== undefined) {
      const step = Math.max(1, Math.floor(pairs.length / SHOWN));
      const chosen = pairs.filter((_, i) => i % step === 0).slice(0, SHOWN);
      const page = await overlayPage(forms[0], chosen, names, {
        ...labelsOf(file),
        title: `${file.arch ?? basename(weights)} on ${basename(data)}`,
      });
      await writeText(overlays, page);
    }
    const agreement = result.agree / result.pixels;
    const passed = forms.length === 1 || agreement >= AGREEMENT;
    const record = recordOf(call(file, weights), names, result, mode);
    io.result({ type: "result", ...record, ...(forms.length > 1 && { agreement, passed }) }, () =>
      report(names, result, mode, agreement, passed),
    );
    if (output !== undefined) await writeText(output, `${JSON.stringify(record, undefined, 2)}\n`);
    return passed ? undefined : 1;
  } finally {
    progress.stop();
    await Promise.all(forms.map((form) => form.dispose()));
    file.close();
  }
}

const call = ({ arch, parameters, dtype }: Classifier, weights: string) => ({ arch, parameters, dtype, weights });

function recordOf(
  { weights, ...model }: ReturnType<typeof call>,
  names: readonly string[],
  { pictures, scores, pixels, agree, maxAbsDiff, seconds }: PixelTest,
  mode: string,
): object {
  const keys = mode === "check" ? ["train", "deploy"] : [mode];
  const numbers = ({ meanIou, meanIouPresent, meanAccuracy, pixelAccuracy, iou, accuracy }: SegmentationScores) => ({
    ...{ miou: meanIou, miouPresent: meanIouPresent, macc: meanAccuracy, aacc: pixelAccuracy },
    classes: Object.fromEntries(names.map((name, i) => [name, { iou: iou[i], accuracy: accuracy[i] }])),
  });
  return {
    format: "repmlp-segmentation-test/1",
    model: { ...model, weights: basename(weights) },
    pictures,
    forms: Object.fromEntries(keys.map((key, i) => [key, numbers(scores[i])])),
    ...(mode === "check" && { pixels, agree, maxAbsDiff }),
    seconds,
  };
}

function warnOfAbsent({ union, meanIouPresent }: SegmentationScores, names: readonly string[], io: Io): void {
  const absent = names.filter((_, i) => union[i] === 0);
  if (absent.length)
    io.warn(
      `${absent.length} of ${names.length} classes occur neither in the masks nor in what the network says: ${absent.join(", ")}. They count 0 in mIoU; without them it is ${percent(meanIouPresent)}.`,
    );
}

function report(
  names: readonly string[],
  { pictures, scores, pixels, agree, maxAbsDiff, seconds }: PixelTest,
  mode: string,
  agreement: number,
  passed: boolean,
): string {
  const both = scores.length > 1;
  const total = scores[0].target.reduce((a, b) => a + b, 0);
  const rows = names.map((name, c) => [
    name,
    ...scores.map(({ iou }) => percent(iou[c])),
    ...scores.map(({ accuracy }) => percent(accuracy[c])),
    percent(scores[0].target[c] / total, 1),
  ]);
  const columns = both ? ["IoU", "merged", "accuracy", "merged"] : ["IoU", "accuracy"];
  const line = ({ meanIou, meanAccuracy, pixelAccuracy }: SegmentationScores): string =>
    `mIoU ${percent(meanIou)}  mAcc ${percent(meanAccuracy)}  aAcc ${percent(pixelAccuracy)}`;
  return [
    textTable([["class", ...columns, "share of pixels"], ...rows]),
    "",
    ...(both
      ? [
          `training form: ${line(scores[0])}`,
          `merged form:   ${line(scores[1])}`,
          `same class on ${grouped(agree)} of ${grouped(pixels)} pixels (${percent(agreement, 4)}), ${passed ? "within" : "below"} the ${percent(AGREEMENT)} asked for; probabilities differ by up to ${scientific(maxAbsDiff)}`,
        ]
      : [`${mode === "train" ? "training" : "deploy"} form: ${line(scores[0])}`]),
    `${pictures} pictures in ${seconds.toFixed(1)} s`,
  ].join("\n");
}

/** Writes the classes of each picture's pixels, as numbers and as colours over the picture. */
async function predict({ args, options, io }: Call<"predict">, file: Classifier): Promise<1 | undefined> {
  const { out = "predictions", labels: labelFile } = options;
  const labels = labelFile === undefined ? file.labels : parseClassNames(await readText(labelFile), labelFile);
  must(
    !labels || labels.length === file.classes,
    "predict/labels",
    () =>
      `${labelFile ?? args.weights}: has ${labels?.length} labels, the network ${file.classes} classes. Name them with --labels.`,
    "usage",
  );
  const names = namesOf(labels, file.classes);
  const colors = classColors(file.classes);
  mustDiffer(args.image);
  await mkdir(out, { recursive: true });
  const { default: sharp } = await import("sharp");
  const segmenter = Segmenter.ofFile(file, segmenterOptions(options));
  try {
    return await eachPicture(args.image, io, async (image, picture) => {
      const { data, shape } = await segmenter.probabilities(picture);
      const classes = Uint8Array.from(
        classOfPixels(new Tensor("float32", [1, ...shape], data as Float32Array<ArrayBuffer>)),
      );
      const { width, height } = picture;
      const stem = join(out, parse(image).name);
      const files = { mask: `${stem}.png`, overlay: `${stem}.overlay.png` };
      await writeBytes(files.mask, encodePalettePng(classes, width, height, colors));
      const laid = overlay(picture, classes, colors);
      await writeBytes(
        files.overlay,
        await sharp(laid.data, { raw: { width, height, channels: 3 } })
          .png()
          .toBuffer(),
      );
      const counts = new Array<number>(file.classes).fill(0);
      for (const c of classes) counts[c]++;
      const shares = counts
        .map((count, index) => ({ index, label: names[index], share: count / classes.length }))
        .filter(({ share }) => share > 0)
        .sort((a, b) => b.share - a.share);
      io.result({ image, ...files, classes: shares }, () =>
        [
          `${shown(image)}: ${files.mask}, ${files.overlay}`,
          ...shares.map(
            ({ index, label, share }) => `  ${(100 * share).toFixed(2).padStart(6)} %  ${shown(label)} (${index})`,
          ),
        ].join("\n"),
      );
    });
  } finally {
    await segmenter.dispose();
  }
}

/** Pictures of the same name in two folders would be written over each other. */
function mustDiffer(images: readonly string[]): void {
  const stems = images.map((image) => parse(image).name);
  const twice = images.find((_, i) => stems.indexOf(stems[i]) !== i);
  must(
    twice === undefined,
    "predict/names",
    () =>
      `${twice}: another picture has the same name, and would be written to the same file. Give them in two calls with another --out.`,
    "usage",
  );
}

export const view: TaskView = { test, predict };
