import { type Batch, isLabelled, type PictureSet } from "../data/index.ts";
import { fmt, listed, must } from "../errors.ts";
import { add, crossEntropy, mul, type Value } from "../graph/index.ts";
import { rankOf, rowLoss } from "../inference/index.ts";
import { hasTrainingOutputs, type Net } from "../nn/index.ts";
import { Tensor } from "../tensor/index.ts";
import { type EvaluateOptions, evaluateTask } from "./evaluate.ts";
import type { Task } from "./task.ts";

export interface ClassificationOptions {
  /** Share of the target that is spread over all classes in training. Default 0. */
  readonly labelSmoothing?: number;
  /**
   * How much the losses of a network's further outputs count in training, by name, beside the main one's 1. Default what
   * the network says; see {@link MultiOutputNet}.
   */
  readonly outputWeights?: Readonly<Record<string, number>>;
}

/** Pictures whose class was the first, or among the first five. */
export type ClassificationSums = { readonly correct: number; readonly correctTop5: number };

/**
 * Telling classes apart: cross entropy, top-1 accuracy leading, top-5 in validation. Networks return logits
 * `[N, classes]`; labels are class numbers, or distributions where mixup or CutMix blended them.
 */
export const classification = ({
  labelSmoothing = 0,
  outputWeights,
}: ClassificationOptions = {}): Task<Batch, Net, ClassificationSums> => ({
  name: "classification",
  settings: { labelSmoothing, ...(outputWeights && { outputWeights: JSON.stringify(outputWeights) }) },
  loss(net, { images, input }) {
    const several = hasTrainingOutputs(net);
    const { output, ...others } = several ? net.trainingOutputs(images) : { output: net.forward(images) };
    const weights = { ...(several && net.outputWeights), ...outputWeights };
    mustNameOutputs(outputWeights, Object.keys(others));
    must(
      output.shape.length === 2 && output.shape[0] === images.shape[0],
      "train-step/output",
      () => `train step: the network must return [N, classes] for a batch, got ${fmt(output.shape)}`,
      "model",
    );
    const targets = input("targets", output.shape);
    const lossOf = (logits: Value): Value => crossEntropy(logits, targets, { labelSmoothing });
    const loss = Object.entries(others)
      .filter(([name]) => weights[name] !== 0)
      .reduce((sum, [name, logits]) => add(sum, mul(lossOf(logits), weights[name] ?? 1)), lossOf(output));
    return { loss, outputs: { output } };
  },
  feeds: ({ labels, targets }, data) => ({ targets: targets ?? oneHotTargets(labels, classesOf(data).length) }),
  checkData(train, validation) {
    const [own, other] = [classesOf(train).length, classesOf(validation).length];
    must(
      own === other,
      "trainer/validation",
      () =>
        `trainer: the training data has pictures ${fmt(train.imageShape)} of ${own} classes, the validation data ${fmt(validation.imageShape)} of ${other}. Use two parts of one data set.`,
      "usage",
    );
  },
  checkOutputs({ output: [, outputs] }, data, when) {
    const classes = classesOf(data).length;
    if (when === "training")
      must(
        outputs === classes,
        "trainer/classes",
        () =>
          `trainer: the network has ${outputs} outputs, the data ${classes} classes. Build the network with \`numClasses\` ${classes}.`,
        "usage",
      );
    else
      must(
        outputs >= classes,
        "evaluate/classes",
        () =>
          `evaluate: the network has ${outputs} outputs, the data ${classes} classes. Use the data that it was trained for.`,
        "usage",
      );
  },
  metrics: {
    zero: () => ({ correct: 0, correctTop5: 0 }),
    add({ correct, correctTop5 }, { output }, { labels }) {
      for (const [logits, label] of rows(output, labels)) {
        const rank = rankOf(logits, label);
        if (rank < 1) correct++;
        if (rank < 5) correctTop5++;
      }
      return { correct, correctTop5 };
    },
    merge: (a, b) => ({ correct: a.correct + b.correct, correctTop5: a.correctTop5 + b.correctTop5 }),
    numbers: ({ correct, correctTop5 }, pictures) => ({ top1: correct / pictures, top5: correctTop5 / pictures }),
    leading: "top1",
    higherIsBetter: true,
    addLoss(sum, { output }, { labels }) {
      for (const [logits, label] of rows(output, labels)) sum += rowLoss(logits, label);
      return sum;
    },
  },
  shows: {
    loss: "cross entropy",
    numbers: [
      { name: "top1", label: "top-1", title: "Accuracy", percent: true },
      { name: "top5", label: "top-5", percent: true, training: false },
    ],
  },
});

function mustNameOutputs(weights: ClassificationOptions["outputWeights"] = {}, names: readonly string[]): void {
  for (const [name, weight] of Object.entries(weights)) {
    must(
      names.includes(name),
      "classification/output",
      () =>
        `classification: outputWeights names "${name}", but in training the network has ${names.length ? `the further outputs ${listed(names)}` : "one output only"}.`,
      "usage",
    );
    must(
      Number.isFinite(weight) && weight >= 0,
      "classification/output",
      () => `classification: the weight of the output "${name}" must be a number from 0, got ${weight}.`,
      "usage",
    );
  }
}

/** The task of who names none. */
export const defaultTask = classification();

/** Targets as a distribution `[N, classes]`: one-hot rows of class numbers. */
export function oneHotTargets(labels: ArrayLike<number>, classes: number): Tensor {
  const q = new Float32Array(labels.length * classes);
  for (let i = 0; i < labels.length; i++) q[i * classes + labels[i]] = 1;
  return new Tensor("float32", [labels.length, classes], q);
}

function classesOf(data: PictureSet): readonly string[] {
  must(
    isLabelled(data),
    "classification/classes",
    () => "classification: these pictures have no classes. Say with task what the network is to learn of them.",
    "usage",
  );
  return data.classes;
}

/** Rows of logits `[N, classes]` with their labels. */
function* rows({ data, shape: [, classes] }: Tensor, labels: Int32Array): Iterable<readonly [Float32Array, number]> {
  for (let i = 0; i < labels.length; i++)
    yield [(data as Float32Array).subarray(i * classes, (i + 1) * classes), labels[i]];
}

/** Counts over a data set; averages follow from them, so that parts can be added up exactly. */
export interface Evaluation {
  readonly total: number;
  /** Pictures whose class was the first, or among the first five. */
  readonly top1: number;
  readonly top5: number;
  /** Sum of the cross entropies. */
  readonly lossSum: number;
  /** Seconds in the network alone. */
  readonly seconds: number;
}

/** Accuracy and loss of a network of classes in evaluation mode on a data set; see {@link evaluateTask}. */
export async function evaluate(
  model: Net,
  data: PictureSet<Batch>,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  const { pictures, sums, lossSum = 0, seconds } = await evaluateTask(defaultTask, model, data, options);
  return { total: pictures, top1: sums.correct, top5: sums.correctTop5, lossSum, seconds };
}
