import { basename, resolve } from "node:path";
import { type Preprocessing, resizedSize } from "../../data/index.ts";
import { describePreprocessing } from "../../data/preprocessing/preprocess.ts";
import type { ModelForm } from "../../models/index.ts";
import { byCodePoint } from "../../text.ts";
import { evaluateData } from "../evaluate.ts";
import { type TestRecord, writeCounts } from "../record.ts";
import type { Shard } from "../shard.ts";
import { mustHaveRead, type TestOptions, withTest } from "./open-test.ts";

export interface RunTestOptions extends TestOptions {
  /** Form that the file must hold. */
  readonly form: ModelForm;
  /** Only this part of the data. */
  readonly shard?: Shard;
}

/**
 * Evaluates a checkpoint or ONNX file on `<data>/val`: the test program of the original, with counters.
 *
 * @throws RepmlpError `detect/form` when the file holds the other form, and what opening model and data throws
 */
export async function runTest(options: RunTestOptions): Promise<TestRecord> {
  return withTest(options, options.form, async ({ classifier, data, batchSize, runSize, sha256, unreadable }) => {
    const { shard = { index: 0, count: 1 }, compile = {}, onBatch, signal } = options;
    const compiled = await classifier.compile({ ...compile, batchSize: runSize });
    try {
      const evaluation = { batchSize, shard, onBatch, signal };
      const { counts, seconds, waiting } = await evaluateData((x) => compiled.run(x), data.dataset, evaluation);
      mustHaveRead(counts.total, unreadable, options.data);
      const { arch, form = options.form, dtype, parameters } = classifier;
      const weights = basename(options.weights);
      return {
        format: "repmlp-test/1",
        model: { name: arch ?? weights, form, weights, sha256, parameters, dtype },
        data: {
          name: basename(resolve(options.data)),
          images: data.dataset.length,
          classes: data.classes,
          labelsSha256: data.labelsSha256,
        },
        input: inputOf(classifier.preprocessing),
        batchSize,
        provider: compile.device ?? "cpu",
        shard: { index: shard.index + 1, count: shard.count },
        counts: writeCounts(counts),
        unreadable: unreadable.toSorted(byCodePoint),
        seconds,
        waiting,
      };
    } finally {
      await compiled.dispose();
    }
  });
}

function inputOf(preprocessing: Preprocessing): TestRecord["input"] {
  const [, size] = preprocessing.inputSize;
  const { interpolation = "bilinear" } = preprocessing;
  // Of a square picture, the crop keeps this part of the side.
  const { height } = resizedSize({ width: size, height: size }, preprocessing);
  return { imageSize: size, cropPct: size / height, interpolation, text: describePreprocessing(preprocessing) };
}
