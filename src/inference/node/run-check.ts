import { RepmlpError } from "../../errors.ts";
import { convertToDeploy } from "../../reparam/index.ts";
import type { Tensor } from "../../tensor/index.ts";
import { byCodePoint } from "../../text.ts";
import { addCounts, type Counts, countLogits, noCounts } from "../counts.ts";
import { evaluateData, type Predict } from "../evaluate.ts";
import { Predictor, top1 } from "../index.ts";
import { mustHaveRead, type TestOptions, withTest } from "./open-test.ts";

/** Both forms of one checkpoint on the same pictures. */
export interface FormsCheck {
  /** Counts of the training form and of its merged form. */
  readonly train: Counts;
  readonly deploy: Counts;
  /** Largest difference of two logits, and the largest absolute logit of the training form. */
  readonly maxAbsDiff: number;
  readonly scale: number;
  /** Pictures for which both forms have the same first class. */
  readonly agree: number;
  /** Pictures left out because they cannot be read, by their paths below `val`. */
  readonly unreadable: readonly string[];
  readonly seconds: number;
  /** Seconds of it spent waiting for pictures. */
  readonly waiting: number;
}

/** Merges a training checkpoint and compares both forms on `<data>/val`. */
export async function runCheck(options: TestOptions): Promise<FormsCheck> {
  return withTest(
    options,
    "train",
    async ({ classifier: { net, preprocessing }, data, batchSize, runSize, unreadable }) => {
      if (!net)
        throw new RepmlpError(
          "test/check",
          `${options.weights}: an ONNX file has one form only. Give the training checkpoint.`,
          "usage",
        );
      const compile = { ...options.compile, inputShape: preprocessing.inputSize, batchSize: runSize };
      const train = await Predictor.create(net, compile);
      const deploy = await Predictor.create(convertToDeploy(net), compile);
      const found = new LogitsComparison();
      const predict: Predict = async (images, labels) => {
        const [a, b] = [await train.run(images), await deploy.run(images)];
        found.add(a, b, labels);
        return a;
      };
      try {
        const { onBatch, signal } = options;
        const { counts, ...times } = await evaluateData(predict, data.dataset, { batchSize, signal, onBatch });
        mustHaveRead(counts.total, unreadable, options.data);
        const { maxAbsDiff, scale, agree } = found;
        const left = { unreadable: unreadable.toSorted(byCodePoint) };
        return { train: counts, deploy: found.counts, maxAbsDiff, scale, agree, ...left, ...times };
      } finally {
        await Promise.all([train.dispose(), deploy.dispose()]);
      }
    },
  );
}

/** Running comparison of two networks' logits; counts are of the second. */
class LogitsComparison {
  counts = noCounts;
  maxAbsDiff = 0;
  scale = 0;
  agree = 0;

  add(first: Tensor, second: Tensor, labels: Int32Array): void {
    const [a, b] = [first.data as Float32Array, second.data as Float32Array];
    const classes = first.shape[1];
    this.counts = addCounts(this.counts, countLogits(b, labels));
    for (const [i, value] of a.entries()) {
      const difference = Math.abs(value - b[i]);
      // A NaN must not pass for equality.
      if (!(difference <= this.maxAbsDiff)) this.maxAbsDiff = difference;
      this.scale = Math.max(this.scale, Math.abs(value));
    }
    for (let i = 0; i < labels.length; i++) {
      const row = (x: Float32Array): Float32Array => x.subarray(i * classes, (i + 1) * classes);
      if (top1(row(a)).index === top1(row(b)).index) this.agree++;
    }
  }
}
