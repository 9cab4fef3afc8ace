import type { TargetBatch } from "../data/index.ts";
import { fmt, must } from "../errors.ts";
import {
  abs,
  add,
  clip,
  constant,
  div,
  logSoftmax,
  mul,
  neg,
  reduceSum,
  reshape,
  sub,
  type Value,
} from "../graph/index.ts";
import { hasTrainingOutputs, type Net } from "../nn/index.ts";
import { Tensor } from "../tensor/index.ts";
import { addToConfusion, classOfPixels, mustBeClass, segmentationScores } from "./segmentation-scores.ts";
import type { Task } from "./task.ts";

export interface SegmentationOptions {
  /** Names of the classes; a pixel's label is an index into them. */
  readonly classes: readonly string[];
  /** Label of pixels that count nowhere. Default 255. */
  readonly ignoreLabel?: number;
  /** How much the loss of the auxiliary head counts beside the main one's. Default what the network says; PSPNet 0.4. */
  readonly auxWeight?: number;
}

/** Counts of pixels, `classes` × `classes`: rows are labels, columns predictions. */
export type SegmentationSums = { readonly confusion: readonly number[] };

/**
 * Mean cross entropy over the pixels whose label is a class; all others are ignored. There must be one.
 *
 * @param logits  `[N, C, H, W]`
 * @param labels  class numbers `[N, H, W]`
 */
export function pixelCrossEntropy(logits: Value, labels: Value): Value {
  const [n, classes, height, width] = logits.shape;
  const numbers = Float32Array.from({ length: classes }, (_, c) => c);
  const range = constant(Tensor.of(logits.dtype, [1, classes, 1, 1], numbers));
  // 1 where the label is the class; a label that is none is a column of zeros.
  const targets = clip(sub(1, abs(sub(reshape(labels, [n, 1, height, width]), range))), 0, 1);
  return neg(div(reduceSum(mul(targets, logSoftmax(logits, 1))), reduceSum(targets)));
}

/**
 * Semantic segmentation: cross entropy of pixels, that of an auxiliary head beside it (arXiv 1612.01105, section 3.3);
 * mIoU leading, with mAcc and aAcc. Networks return logits `[N, classes, H, W]` of the pictures' own height and width;
 * targets are class numbers `[N, H, W]`.
 *
 * The loss is the mean over all pixels of a batch that count, as in PyTorch. Where a step takes a batch in parts, each
 * part has its own mean.
 */
export function segmentation({
  classes,
  ignoreLabel = 255,
  auxWeight,
}: SegmentationOptions): Task<TargetBatch, Net, SegmentationSums> {
  const count = classes.length;
  must(
    count > 0 && !(ignoreLabel >= 0 && ignoreLabel < count),
    "segmentation/options",
    () => `segmentation: the label to be ignored must be none of the ${count} classes, got ${ignoreLabel}.`,
    "usage",
  );
  return {
    name: "segmentation",
    settings: { classes: JSON.stringify(classes), ignoreLabel, ...(auxWeight !== undefined && { auxWeight }) },
    loss(net, { images, input }) {
      const several = hasTrainingOutputs(net);
      const { output, ...others } = several ? net.trainingOutputs(images) : { output: net.forward(images) };
      const [n, , height, width] = images.shape;
      must(
        output.shape.length === 4 && output.shape[2] === height && output.shape[3] === width,
        "segmentation/output",
        () =>
          `segmentation: the network must return [${n}, classes, ${height}, ${width}] for pictures ${fmt(images.shape)}, got ${fmt(output.shape)}. Resize its logits.`,
        "model",
      );
      const labels = input("masks", [n, height, width]);
      const weightOf = (name: string): number => auxWeight ?? (several ? (net.outputWeights[name] ?? 1) : 1);
      const loss = Object.entries(others)
        .filter(([name]) => weightOf(name) !== 0)
        .reduce(
          (sum, [name, logits]) => add(sum, mul(pixelCrossEntropy(logits, labels), weightOf(name))),
          pixelCrossEntropy(output, labels),
        );
      return { loss, outputs: { output } };
    },
    feeds({ targets }) {
      let counted = 0;
      for (const label of targets.data as Float32Array)
        if (label !== ignoreLabel) {
          mustBeClass(label, count, ignoreLabel);
          counted++;
        }
      must(
        counted > 0,
        "segmentation/ignored",
        () =>
          `segmentation: every pixel of a batch has the label ${ignoreLabel}, which is ignored, so there is no loss. Leave such pictures out, or give the ignoreLabel that the masks have.`,
        "file",
      );
      return { masks: targets };
    },
    checkOutputs({ output: [, outputs] }) {
      must(
        outputs === count,
        "segmentation/classes",
        () =>
          `segmentation: the network has ${outputs} outputs, the task ${count} classes. Build the network with \`numClasses\` ${count}.`,
        "usage",
      );
    },
    metrics: {
      zero: () => ({ confusion: new Array<number>(count ** 2).fill(0) }),
      add({ confusion }, { output }, { targets }) {
        const sums = [...confusion];
        addToConfusion(sums, count, classOfPixels(output), targets.data as Float32Array, ignoreLabel);
        return { confusion: sums };
      },
      merge: (a, b) => ({ confusion: a.confusion.map((v, i) => v + b.confusion[i]) }),
      numbers({ confusion }) {
        const { meanIou, meanAccuracy, pixelAccuracy } = segmentationScores(confusion, count);
        return { miou: meanIou, macc: meanAccuracy, aacc: pixelAccuracy };
      },
      leading: "miou",
      higherIsBetter: true,
      addLoss: (sum, { output }, { targets }) => sum + lossOfPictures(output, targets, ignoreLabel),
    },
    shows: {
      loss: "cross entropy of pixels",
      numbers: [
        { name: "miou", label: "mIoU", title: "Mean intersection over union", percent: true },
        { name: "macc", label: "mAcc", percent: true, training: false },
        { name: "aacc", label: "aAcc", percent: true, training: false },
      ],
    },
  };
}

/** Sum over pictures of the mean cross entropy of their pixels; a picture without one that counts adds 0. */
function lossOfPictures({ data, shape: [n, classes, height, width] }: Tensor, targets: Tensor, ignore: number): number {
  const [logits, labels] = [data as Float32Array, targets.data as Float32Array];
  const size = height * width;
  let total = 0;
  for (let i = 0; i < n; i++) {
    let [sum, count] = [0, 0];
    for (let p = 0; p < size; p++) {
      const label = labels[i * size + p];
      if (label === ignore) continue;
      const at = i * classes * size + p;
      let most = Number.NEGATIVE_INFINITY;
      for (let c = 0; c < classes; c++) most = Math.max(most, logits[at + c * size]);
      let exps = 0;
      for (let c = 0; c < classes; c++) exps += Math.exp(logits[at + c * size] - most);
      sum += most + Math.log(exps) - logits[at + label * size];
      count++;
    }
    if (count) total += sum / count;
  }
  return total;
}
