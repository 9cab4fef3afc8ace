import type { Net } from "../nn/index.ts";
import type { OnnxModel } from "../onnx/index.ts";
import { compileModel } from "../runtime/index.ts";
import { rng, type Shape, sizeOf, Tensor } from "../tensor/index.ts";
import { readMetadata } from "./metadata.ts";
import { Predictor } from "./predictor.ts";

/** Largest part of the largest output by which rounding may make a picture's outputs differ between batch sizes. */
const TOLERANCE = 1e-3;

/** What is said of a model that does, as a sentence without its subject. */
export const MIXES =
  "it mixes the pictures of a batch, or computes with their number: it gives other results at other batch sizes";

/**
 * Whether a network in evaluation mode gives a picture other outputs beside another picture than by itself: it mixes the
 * pictures of a batch, or computes with their number. Runs it on random input, one and two pictures.
 *
 * @param imageShape  one picture, `[C, H, W]`
 */
export async function mixesPictures(model: Net, imageShape: Shape): Promise<boolean> {
  const pictures = randomPictures(2, imageShape);
  const outputs = async (count: number): Promise<Float64Array> => {
    const predictor = await Predictor.create(model, { inputShape: imageShape, batchSize: count });
    try {
      return (await predictor.run(first(pictures, count))).toFloat64();
    } finally {
      await predictor.dispose();
    }
  };
  return areOthers(await outputs(1), await outputs(2));
}

/**
 * The same of an ONNX model with one input of pictures, as sentences: none where it does not, where its batch is one picture,
 * and of files that this program wrote for a network it knows, which were checked at several batch sizes. Integers are not
 * looked at, since a rounding that tips over is no other result. A model that cannot be run is for those to tell who run it.
 */
export async function remarksOnBatches(model: OnnxModel, imageShape: Shape, where: string): Promise<string[]> {
  const [{ name, shape, dtype }] = model.inputs;
  const fixed = typeof shape?.[0] === "number" ? shape[0] : undefined;
  const isRounded = model.nodes.some(({ opType }) => opType === "QuantizeLinear");
  if (isRounded || fixed === 1 || readMetadata(model, where).arch !== undefined) return [];
  const pictures = randomPictures(fixed ?? 2, imageShape);
  const mixes = async (): Promise<boolean> => {
    await using program = await compileModel(model);
    const run = async (images: Tensor): Promise<Float64Array> => {
      const [made] = Object.values(await program.run({ [name]: images.cast(dtype) }));
      return made.toFloat64().subarray(0, sizeOf(made.shape.slice(1)));
    };
    const alone = fixed ? others(pictures) : first(pictures, 1);
    return areOthers(await run(alone), await run(pictures));
  };
  return (await mixes().catch(() => false)) ? [MIXES] : [];
}

function randomPictures(count: number, imageShape: Shape): Tensor {
  const stream = rng(0, "mixing");
  const values = Float32Array.from({ length: count * sizeOf(imageShape) }, () => stream.normal());
  return Tensor.float32([count, ...imageShape], values);
}

const first = ({ shape: [, ...rest], data }: Tensor, count: number): Tensor =>
  Tensor.float32([count, ...rest], (data as Float32Array).slice(0, count * sizeOf(rest)));

/** The first picture, beside others than before. */
function others({ shape, data }: Tensor): Tensor {
  const each = sizeOf(shape.slice(1));
  return Tensor.float32(
    shape,
    (data as Float32Array).map((v, i) => (i < each ? v : 2 * v + 1)),
  );
}

function areOthers(alone: Float64Array, beside: Float64Array): boolean {
  const largest = alone.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
  return alone.some((v, i) => Math.abs(v - beside[i]) > TOLERANCE * largest);
}
