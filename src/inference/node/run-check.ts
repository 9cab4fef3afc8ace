import { RepmlpError } from "../../errors.ts";
import { convertToDeploy } from "../../reparam/index.ts";
import { byCodePoint } from "../../text.ts";
import { addCounts, type Counts, countLogits, noCounts } from "../counts.ts";
import { evaluateData, type Predict } from "../evaluate.ts";
import { mustBeFinite } from "../finite-outputs.ts";
import { LogitsComparison, Predictor } from "../index.ts";
import { mustHaveRead, type TestOptions, withTest } from "./open-test.ts";

/** Both forms of one checkpoint on the same pictures. */
export interface FormsCheck {
  /** Counts of the training form and of its merged form. */
  readonly train: Counts;
  readonly deploy: Counts;
  /** Largest difference of two logits, and the largest absolute logit of the training form. */
  readonly maxAbsDiff: number;
  readonly scale: number;
  /** The one divided by the other. */
  readonly maxRel: number;
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
      const merge = convertToDeploy(net);
      const deploy = await Predictor.create(merge, compile);
      const found = new LogitsComparison();
      let merged = noCounts;
      const predict: Predict = async (images, labels) => {
        const [a, b] = [await train.run(images), await deploy.run(images)];
        await mustBeFinite(a, options.weights, images, net, options.compile);
        await mustBeFinite(b, `${options.weights}, merged`, images, merge, options.compile);
        found.addRows(a, b);
        merged = addCounts(merged, countLogits(b.data as Float32Array, labels));
        return a;
      };
      try {
        const { onBatch, signal } = options;
        const { counts, ...times } = await evaluateData(predict, data.dataset, { batchSize, signal, onBatch });
        mustHaveRead(counts.total, unreadable, options.data);
        const { maxAbs: maxAbsDiff, maxRel, scale, agree } = found;
        const left = { unreadable: unreadable.toSorted(byCodePoint) };
        return { train: counts, deploy: merged, maxAbsDiff, maxRel, scale, agree, ...left, ...times };
      } finally {
        await Promise.all([train.dispose(), deploy.dispose()]);
      }
    },
  );
}
