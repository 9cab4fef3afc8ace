import { describe, expect, test } from "vitest";
import {
  batchNormAffine,
  convToFc,
  foldInputBias,
  foldInputWeight,
  fuseBias,
  type Kernel,
  type PartitionSize,
  scaleRows,
  sumKernels,
} from "../../src/reparam/index.ts";
import { rng, type Shape, sizeOf, Tensor } from "../../src/tensor/index.ts";

const random = (shape: Shape, name: string): Float64Array<ArrayBuffer> => {
  const stream = rng(3, name);
  return Float64Array.from({ length: sizeOf(shape) }, () => stream.normal());
};
const tensor = (shape: Shape, values: ArrayLike<number>): Tensor => Tensor.of("float64", shape, values);

/**
 * The grouped convolution of one picture `[C, h, w]`, stride 1, as textbooks write it: the kernel slides over the
 * picture with zeros around.
 */
function convolve(
  { values, shape: [o, cPerGroup, k] }: Kernel,
  picture: Float64Array,
  groups: number,
  [h, w]: PartitionSize,
) {
  const r = Math.floor(k / 2);
  const pixel = (c: number, y: number, x: number): number =>
    y >= 0 && y < h && x >= 0 && x < w ? picture[(c * h + y) * w + x] : 0;
  const out = new Float64Array(o * h * w);
  for (let f = 0; f < o; f++)
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        let sum = 0;
        for (let c = 0; c < cPerGroup; c++)
          for (let a = 0; a < k; a++)
            for (let b = 0; b < k; b++)
              sum +=
                values[((f * cPerGroup + c) * k + a) * k + b] *
                pixel(Math.floor((f * groups) / o) * cPerGroup + c, y + a - r, x + b - r);
        out[(f * h + y) * w + x] = sum;
      }
  return out;
}

/** The paper's definition: convolve the identity, one copy per group side by side; `[n][O·h·w]`, n = C/g·h·w. */
function convolvedIdentity(kernel: Kernel, groups: number, size: PartitionSize): Float64Array[] {
  const n = kernel.shape[1] * size[0] * size[1];
  return Array.from({ length: n }, (_, i) => {
    const picture = new Float64Array(groups * n);
    for (let g = 0; g < groups; g++) picture[g * n + i] = 1;
    return convolve(kernel, picture, groups, size);
  });
}

const cases = [
  { name: "one channel, 3 x 3", c: 1, o: 1, k: 3, size: [4, 4] },
  { name: "C = O, unequal sides", c: 4, o: 4, groups: 2, k: 3, size: [5, 3] },
  { name: "C < O", c: 2, o: 6, groups: 2, k: 3, size: [3, 4] },
  { name: "C > O", c: 6, o: 3, groups: 3, k: 5, size: [4, 3] },
  { name: "C > O in one group", c: 3, o: 2, k: 3, size: [3, 3] },
  { name: "depthwise", c: 3, o: 3, groups: 3, k: 5, size: [6, 5] },
  { name: "1 x 1", c: 3, o: 3, k: 1, size: [2, 3] },
  { name: "kernel larger than the partition", c: 2, o: 2, k: 7, size: [2, 3] },
  { name: "kernel much larger than the partition", c: 1, o: 2, k: 11, size: [1, 2] },
] as const;

describe("a convolution as a fully connected matrix", () => {
  test.for(cases)("equals the convolved identity: $name", ({ c, o, k, size, ...rest }) => {
    const groups = "groups" in rest ? rest.groups : 1;
    const shape = [o, c / groups, k, k];
    const kernel = { values: random(shape, "kernel"), shape };
    const fc = convToFc(kernel, size, "float64");
    const images = convolvedIdentity(kernel, groups, size);
    const features = o * size[0] * size[1];
    expect(fc.shape).toEqual([features, images.length]);
    const expected = Float64Array.from(
      { length: fc.size },
      (_, i) => images[i % images.length][Math.floor(i / images.length)],
    );
    expect(fc.data).toEqual(expected);
  });

  test.for(cases)("gives the same pictures: $name", ({ c, o, k, size, ...rest }) => {
    const groups = "groups" in rest ? rest.groups : 1;
    const shape = [o, c / groups, k, k];
    const kernel = { values: random(shape, "kernel"), shape };
    const picture = random([c, ...size], "picture");
    const fc = convToFc(kernel, size, "float64").toFloat64();
    const n = (c / groups) * size[0] * size[1];
    const rowsPerGroup = fc.length / n / groups;
    const connected = Float64Array.from({ length: fc.length / n }, (_, row) => {
      const inputs = picture.subarray(Math.floor(row / rowsPerGroup) * n);
      return fc.subarray(row * n, (row + 1) * n).reduce((sum, w, i) => sum + w * inputs[i], 0);
    });
    const convolved = convolve(kernel, picture, groups, size);
    expect(Math.max(...connected.map((v, i) => Math.abs(v - convolved[i])))).toBeLessThan(1e-13);
  });

  /** What the original code does: it views the convolved identity with C and O swapped before it transposes. */
  const original = (kernel: Kernel, groups: number, size: PartitionSize): number[] => {
    const rows = convolvedIdentity(kernel, groups, size);
    const flat = rows.flatMap((r) => [...r]);
    const [o, cPerGroup] = kernel.shape;
    const [a, b] = [(o * size[0] * size[1]) / groups, cPerGroup * groups * size[0] * size[1]];
    return Array.from({ length: a * b }, (_, i) => flat[(i % a) * b + Math.floor(i / a)]);
  };

  test.for([
    { c: 4, o: 4, groups: 2, agrees: true },
    { c: 2, o: 6, groups: 2, agrees: false },
    { c: 6, o: 4, groups: 1, agrees: false },
  ])("the original's reshape agrees only for C = O: C $c, O $o", ({ c, o, groups, agrees }) => {
    const shape = [o, c / groups, 3, 3];
    const kernel = { values: random(shape, "kernel"), shape };
    const same = original(kernel, groups, [3, 2]).every((v, i) => v === convToFc(kernel, [3, 2], "float64").data[i]);
    expect(same).toBe(agrees);
  });
});

describe("sums of branches", () => {
  const affine = { scale: Float64Array.of(2, -1), shift: Float64Array.of(0.5, 4) };

  test("smaller kernels stand in the middle of the largest", () => {
    const sum = sumKernels([
      { weight: tensor([2, 1, 1, 1], [10, 20]), affine },
      { weight: tensor([2, 1, 3, 3], [...Array(9).keys(), ...Array(9).keys()]), affine },
    ]);
    expect(sum.shape).toEqual([2, 1, 3, 3]);
    expect([...sum.values]).toEqual([0, 2, 4, 6, 8 + 20, 10, 12, 14, 16, ...[0, -1, -2, -3, -4 - 20, -5, -6, -7, -8]]);
    expect([...sum.bias]).toEqual([1, 8]);
  });

  test.for([
    { name: "even", shape: [2, 1, 2, 2] },
    { name: "not square", shape: [2, 1, 3, 1] },
  ])("kernels need a middle: $name", ({ shape }) => {
    const values = new Float64Array(sizeOf(shape));
    expect(() => sumKernels([{ weight: tensor(shape, values), affine }])).toThrow("square and odd");
    expect(() => convToFc({ values, shape }, [3, 3])).toThrow(`so that they have a middle, got [${shape.join(", ")}]`);
  });
});

describe("a batch norm", () => {
  const [weight, bias, mean, variance] = [
    [1.5, -0.5, 2],
    [0.1, 0.2, -0.3],
    [0.5, -1, 0],
    [4, 0.25, 1],
  ].map((v) => tensor([3], v));
  const norm = { weight, bias, mean, variance, eps: 1e-5 };
  const apply = (x: number, c: number): number => {
    const [g, b, m, v] = [weight, bias, mean, variance].map((t) => t.toFloat64()[c]);
    return ((x - m) / Math.sqrt(v + 1e-5)) * g + b;
  };

  test("is scale and shift", () => {
    const { scale, shift } = batchNormAffine(norm);
    for (const c of [0, 1, 2]) expect(scale[c] * 7 + shift[c]).toBeCloseTo(apply(7, c), 12);
  });

  test("after a layer scales its rows and takes its bias along", () => {
    const affine = batchNormAffine(norm);
    const w = tensor([3, 2], [1, 2, 3, 4, 5, 6]);
    const b = tensor([3], [7, 8, 9]);
    const [w2, b2] = [scaleRows(w, affine.scale).data, fuseBias("float64", affine, b).data].map((d) =>
      [...d].map(Number),
    );
    for (const c of [0, 1, 2])
      expect(w2[2 * c] * 3 + w2[2 * c + 1] * 11 + b2[c]).toBeCloseTo(
        apply(w.toFloat64()[2 * c] * 3 + w.toFloat64()[2 * c + 1] * 11 + b.toFloat64()[c], c),
        12,
      );
  });

  test("before a layer goes into its columns, channel outermost", () => {
    const affine = batchNormAffine(norm);
    const w = tensor([2, 6], random([2, 6], "w"));
    const b = tensor([2], [7, 8]);
    const x = random([6], "x");
    const dot = (row: Float64Array, v: ArrayLike<number>): number => row.reduce((sum, a, i) => sum + a * v[i], 0);
    const [w2, b2] = [foldInputWeight(w, affine).toFloat64(), foldInputBias(w, b, affine).toFloat64()];
    const normalized = x.map((v, i) => apply(v, Math.floor(i / 2)));
    for (const r of [0, 1])
      expect(dot(w2.subarray(6 * r, 6 * r + 6), x) + b2[r]).toBeCloseTo(
        dot(w.toFloat64().subarray(6 * r, 6 * r + 6), normalized) + b.toFloat64()[r],
        12,
      );
  });
});
