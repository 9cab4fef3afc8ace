import type { Net } from "../nn/index.ts";
import { rng, type Shape, sizeOf, Tensor } from "../tensor/index.ts";
import { Predictor } from "./predictor.ts";

/** Largest part of the largest output by which rounding may make a picture's outputs differ between batch sizes. */
const TOLERANCE = 1e-3;

/**
 * Whether a network in evaluation mode gives a picture other outputs beside another picture than by itself: it mixes the
 * pictures of a batch, or computes with their number. Runs it on random input, one and two pictures.
 *
 * @param imageShape  one picture, `[C, H, W]`
 */
export async function mixesPictures(model: Net, imageShape: Shape): Promise<boolean> {
  const stream = rng(0, "mixing");
  const size = sizeOf(imageShape);
  const values = Float32Array.from({ length: 2 * size }, () => stream.normal());
  const outputs = async (count: number): Promise<Float64Array> => {
    const predictor = await Predictor.create(model, { inputShape: imageShape, batchSize: count });
    try {
      return (await predictor.run(Tensor.float32([count, ...imageShape], values.slice(0, count * size)))).toFloat64();
    } finally {
      await predictor.dispose();
    }
  };
  const [alone, both] = [await outputs(1), await outputs(2)];
  const largest = alone.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
  return alone.some((v, i) => Math.abs(v - both[i]) > TOLERANCE * largest);
}
