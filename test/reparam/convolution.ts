import { rng, type Shape, sizeOf, Tensor } from "../../src/tensor/index.ts";

/** Normally distributed numbers in float64, the same for the same name. */
export function normal(shape: Shape, name: string): Tensor {
  const stream = rng(3, name);
  return Tensor.of(
    "float64",
    shape,
    Float64Array.from({ length: sizeOf(shape) }, () => stream.normal()),
  );
}

type Pair = readonly [number, number];

export interface Window {
  readonly groups?: number;
  readonly stride?: number;
  /** Zeros around: above and below, left and right. */
  readonly padding?: Pair;
  readonly dilation?: Pair;
}

/** A grouped convolution of one picture `[C, H, W]` by `[O, C/g, h, w]` as textbooks write it. */
export function convolve(
  picture: Tensor,
  kernel: Tensor,
  { groups = 1, stride = 1, padding: [top, left] = [0, 0], dilation: [down, along] = [1, 1] }: Window = {},
): Tensor {
  const [, height, width] = picture.shape;
  const [o, perGroup, h, w] = kernel.shape;
  const [values, x] = [kernel.toFloat64(), picture.toFloat64()];
  const pixel = (c: number, i: number, j: number): number =>
    i >= 0 && i < height && j >= 0 && j < width ? x[(c * height + i) * width + j] : 0;
  const rows = Math.floor((height + 2 * top - down * (h - 1) - 1) / stride) + 1;
  const columns = Math.floor((width + 2 * left - along * (w - 1) - 1) / stride) + 1;
  const out = new Float64Array(o * rows * columns);
  for (let f = 0, to = 0; f < o; f++)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++, to++)
        for (let c = 0, at = f * perGroup * h * w; c < perGroup; c++)
          for (let a = 0; a < h; a++)
            for (let b = 0; b < w; b++, at++)
              out[to] +=
                values[at] *
                pixel(
                  Math.floor((f * groups) / o) * perGroup + c,
                  i * stride + a * down - top,
                  j * stride + b * along - left,
                );
  return Tensor.of("float64", [o, rows, columns], out);
}

/** A picture with each value changed by what belongs to its channel. */
export const perChannel = (picture: Tensor, f: (value: number, channel: number) => number): Tensor =>
  picture.map((v, i) => f(v, Math.floor(i / (picture.size / picture.shape[0]))));

export const sum = (a: Tensor, b: Tensor): Tensor => {
  const other = b.toFloat64();
  return a.map((v, i) => v + other[i]);
};

/** Largest difference of two tensors of one shape; shapes that differ are infinitely far apart. */
export function distance(a: Tensor, b: Tensor): number {
  if (a.shape.join() !== b.shape.join()) return Number.POSITIVE_INFINITY;
  const [x, y] = [a.toFloat64(), b.toFloat64()];
  return x.reduce((most, v, i) => (Math.abs(v - y[i]) <= most ? most : Math.abs(v - y[i])), 0);
}
