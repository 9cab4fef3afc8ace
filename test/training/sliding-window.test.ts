import { expect, test } from "vitest";
import { type PixelClassifier, pixelProbabilities, Tensor } from "../../src/index.ts";

const normalization = { mean: [0, 0, 0], std: [1 / 255, 1 / 255, 1 / 255] };

/** A picture whose red channel tells the place of each pixel. */
function picture(width: number, height: number) {
  const data = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) data[3 * i] = (7 * i + 3) % 251;
  return { width, height, data };
}

/** Two logits per pixel, of that pixel alone; counts the pictures of each run. */
function pixelwise(runs: number[]): PixelClassifier {
  return async (images) => {
    const [n, , h, w] = images.shape;
    runs.push(n);
    const out = new Float32Array(n * 2 * h * w);
    for (let i = 0; i < n; i++)
      for (let p = 0; p < h * w; p++)
        out[(2 * i + 1) * h * w + p] = (images.data[3 * i * h * w + p] as number) / 50 - 2;
    return new Tensor("float32", [n, 2, h, w], out);
  };
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

test.for([
  { name: "one tile", tile: [20, 30], stride: 2 / 3, mirror: false, batchSize: 4, tiles: 1 },
  { name: "a tile larger than the picture", tile: [32, 41], stride: 2 / 3, mirror: true, batchSize: 4, tiles: 2 },
  { name: "overlapping tiles", tile: [9, 12], stride: 2 / 3, mirror: false, batchSize: 5, tiles: 3 * 4 },
  { name: "mirrored, one by one", tile: [9, 30], stride: 1, mirror: true, batchSize: 1, tiles: 3 * 2 },
] as const)(
  "a network of single pixels says the same in tiles: $name",
  async ({ tile, stride, mirror, batchSize, tiles }) => {
    const shown = picture(30, 20);
    const runs: number[] = [];
    const { data, shape } = await pixelProbabilities(async () => pixelwise(runs), shown, {
      ...{ tile: () => tile, stride, mirror, batchSize, normalization },
    });
    expect(shape).toEqual([2, 20, 30]);
    for (let p = 0; p < 600; p++) {
      const one = sigmoid(shown.data[3 * p] / 50 - 2);
      expect(data[600 + p]).toBeCloseTo(one, 5);
      expect(data[p]).toBeCloseTo(1 - one, 5);
    }
    expect(runs.reduce((a, b) => a + b)).toBe(tiles);
    expect(runs.length).toBe(Math.ceil(tiles / batchSize));
  },
);

test("where tiles overlap, the softmax is averaged; the last tile ends with the picture", async () => {
  // The network's logit is the column within the tile: of columns 0 … 3 in tiles from 0 and, to end with the picture, from 2.
  const byColumn: PixelClassifier = async ({ shape: [n, , h, w] }) => {
    const out = new Float32Array(n * 2 * h * w);
    for (let i = 0; i < n; i++) for (let p = 0; p < h * w; p++) out[(2 * i + 1) * h * w + p] = p % w;
    return new Tensor("float32", [n, 2, h, w], out);
  };
  const settings = { tile: () => [1, 4] as const, stride: 1, normalization };
  const { data } = await pixelProbabilities(async () => byColumn, picture(6, 1), settings);
  const both = (a: number, b: number): number => (sigmoid(a) + sigmoid(b)) / 2;
  const expected = [sigmoid(0), sigmoid(1), both(2, 0), both(3, 1), sigmoid(2), sigmoid(3)];
  for (const [x, p] of expected.entries()) expect(data[6 + x]).toBeCloseTo(p, 6);
});

test("several scales are resized back and averaged", async () => {
  const grey = { width: 12, height: 8, data: new Uint8Array(3 * 96).fill(80) };
  const sizes: string[] = [];
  const { data, shape } = await pixelProbabilities(
    async (tile) => {
      sizes.push(`${tile}`);
      return pixelwise([]);
    },
    grey,
    { tile: (size) => size, scales: [0.5, 1, 1.25], normalization },
  );
  expect(sizes).toEqual(["4,6", "8,12", "10,15"]);
  expect(shape).toEqual([2, 8, 12]);
  for (let p = 0; p < 96; p++) expect(data[96 + p]).toBeCloseTo(sigmoid(80 / 50 - 2), 5);
});

test.for([
  [{ stride: 0 }, /stride must be a share above 0/],
  [{ scales: [] }, /scales positive numbers/],
  [{ scales: [-1] }, /scales positive numbers/],
] as const)("%j is refused", async ([wrong, message]) => {
  const settings = { tile: () => [4, 4] as const, normalization, ...wrong };
  await expect(pixelProbabilities(async () => pixelwise([]), picture(4, 4), settings)).rejects.toThrow(message);
});
