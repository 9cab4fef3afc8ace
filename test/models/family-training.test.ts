import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import { describe, expect, test } from "vitest";
import { cifar10, fashionMnistSmall } from "../../src/data/node/index.ts";
import {
  convertToDeploy,
  createModel,
  type Dataset,
  exportOnnx,
  Predictor,
  sampleDataset,
  sgd,
  Trainer,
  verifyEquivalence,
} from "../../src/node.ts";
import { encodeOnnx } from "../../src/onnx/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { narrow } from "./narrow.ts";

/*
 * A narrow network of each family learns on real pictures for an epoch, is merged, and runs in ONNX Runtime. With the
 * folder of CIFAR-10 in the environment's CIFAR10 the pictures are from there, otherwise those of the package, in grey.
 */

/** `[N, 1 or 3, H, W]` in three channels. */
function inColour({ shape: [n, channels, h, w], data }: Tensor): Tensor {
  const size = channels * h * w;
  const picture = (i: number): readonly number[] => {
    const values = Array.from((data as Float32Array).subarray(i * size, (i + 1) * size));
    return channels === 3 ? values : [...values, ...values, ...values];
  };
  return Tensor.of("float32", [n, 3, h, w], Float32Array.from(Array.from({ length: n }, (_, i) => picture(i)).flat()));
}

/** The first pictures of a set. */
async function pictures(split: "train" | "test", count: number): Promise<Dataset & { readonly images: Tensor }> {
  const folder = process.env.CIFAR10;
  const set = await (folder ? cifar10(folder, split) : fashionMnistSmall(split));
  const batch = await set.batch(Array.from({ length: count }, (_, i) => i));
  const images = inColour(batch.images);
  const [, channels, height, width] = images.shape;
  const values = images.data as Float32Array;
  const size = values.length / count;
  const sample = (i: number) => ({ image: values.subarray(i * size, (i + 1) * size), label: Number(batch.labels[i]) });
  return Object.assign(
    sampleDataset({ length: count, classes: set.classes, imageShape: [channels, height, width], sample }),
    { images },
  );
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;

const classesOf = (logits: ArrayLike<number>, count: number): number[] =>
  Array.from({ length: count }, (_, i) => {
    const row = Array.from(logits).slice((i * logits.length) / count, ((i + 1) * logits.length) / count);
    return row.indexOf(Math.max(...row));
  });

describe("a narrow network of each family learns on real pictures, merges exactly, and runs in ONNX Runtime", async () => {
  const train = await pictures("train", process.env.CIFAR10 ? 6400 : 1024);
  const { images } = await pictures("test", 64);
  const imageSize = images.shape[2];

  test.for(narrow)("$arch", async ({ arch, options, lr = 0.05, epochs = 1, coefficients }) => {
    const model = createModel(arch, { ...options, imageSize, numClasses: 10 });
    const losses: number[] = [];
    await new Trainer(model, {
      ...{
        data: { train },
        epochs,
        coefficients,
        batchSize: 32,
        lr,
        optimizer: sgd({ momentum: 0.9 }),
        seed: 1,
        threads: 1,
      },
      onEvent: (event) => event.type === "step" && losses.push(event.loss),
    }).run();
    const quarter = train.length / 32 / 4;
    expect(mean(losses.slice(-quarter))).toBeLessThan(0.95 * mean(losses.slice(0, quarter)));

    const deploy = convertToDeploy(model);
    const { maxRel, top1 } = await verifyEquivalence(model, deploy, { inputs: images });
    expect(maxRel).toBeLessThan(1e-5);
    expect(top1).toEqual({ agree: 64, total: 64 });

    const { model: onnx } = await exportOnnx(deploy, { inputShape: [3, imageSize, imageSize] });
    const session = await InferenceSession.create(encodeOnnx(onnx));
    const { logits } = await session.run({
      pixel_values: new OrtTensor("float32", images.data as Float32Array, images.shape),
    });
    const predictor = await Predictor.create(model, { inputShape: images.shape.slice(1), batchSize: 64 });
    const own = await predictor.run(images);
    expect(classesOf(logits.data as Float32Array, 64)).toEqual(classesOf(own.data as Float32Array, 64));
    await Promise.all([session.release(), predictor.dispose()]);
  });
});
