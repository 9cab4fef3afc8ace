import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { OnnxNode } from "../../src/onnx/index.ts";
import { addColumns, type ColumnSums, columnMeans, waysOf } from "../../src/quantize/columns.ts";
import {
  affineQuantization,
  BatchNormStatistics,
  biasShift,
  type CalibratorName,
  calibrators,
  dequantizeTensor,
  entropyCalibrator,
  equalizeLayers,
  integerRanges,
  percentileCalibrator,
  quantizeTensor,
  roundHalfEven,
  StreamingHistogram,
  squaredError,
  symmetricQuantization,
  weightQuantization,
} from "../../src/quantize/index.ts";
import { agreementOf } from "../../src/quantize/noise.ts";
import { compileModel } from "../../src/runtime/index.ts";
import { sizeOf, Tensor } from "../../src/tensor/index.ts";
import "../../src/node.ts";

/** Steps of numbers near 1e-38 are none of float32. */
const real = fc.double({ min: -1e3, max: 1e3, noNaN: true }).map((v) => (Math.abs(v) < 1e-6 ? 0 : v));
const reals = fc.array(real, { minLength: 1, maxLength: 200 });
const { uint8, symmetric7, symmetric8 } = integerRanges;

/** Numbers of a normal distribution, by a fixed sequence. */
function normal(count: number, deviation = 1): number[] {
  let seed = 1;
  const next = (): number => {
    seed = (seed * 48271) % 2147483647;
    return seed / 2147483647;
  };
  return Array.from(
    { length: count },
    () => deviation * Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next()),
  );
}

describe("integers of real numbers", () => {
  test.each([
    [0.5, 0],
    [1.5, 2],
    [2.5, 2],
    [-0.5, 0],
    [-1.5, -2],
    [-2.5, -2],
    [2.4999, 2],
    [-3.7, -4],
  ])("%f rounds to %i, halves to even", (x, rounded) => expect(roundHalfEven(x) + 0).toBe(rounded));

  test("values are off by one step at most where the rounded zero point moves the ends, and zero is exact", () => {
    fc.assert(
      fc.property(reals, (values) => {
        const step = affineQuantization(Math.min(...values), Math.max(...values));
        const quantization = { ...uint8, steps: [step] };
        const tensor = Tensor.float32([values.length + 1], [...values, 0]);
        const back = dequantizeTensor(quantizeTensor(tensor, quantization, "uint8"), quantization).toFloat64();
        expect(back[values.length]).toBe(0);
        for (const [i, v] of tensor.toFloat64().entries())
          expect(Math.abs(back[i] - v)).toBeLessThanOrEqual(step.scale + 1e-6 * Math.abs(v));
      }),
    );
  });

  test("each channel of a weight reaches the largest integer and no further", () => {
    fc.assert(
      fc.property(fc.array(fc.array(real, { minLength: 3, maxLength: 3 }), { minLength: 1, maxLength: 5 }), (rows) => {
        const weight = Tensor.float32([rows.length, 3], rows.flat());
        for (const range of [symmetric8, symmetric7]) {
          const integers = quantizeTensor(weight, weightQuantization(weight, { axis: 0, range }), "int8").toFloat64();
          for (const [c, row] of rows.entries()) {
            const largest = Math.max(...integers.subarray(3 * c, 3 * c + 3).map(Math.abs));
            expect(largest).toBe(row.some((v) => Math.fround(v) !== 0) ? range.qmax : 0);
          }
        }
      }),
    );
  });

  test("pairs of products of uint8 and 7-bit weights fit 16 bits, those of 8-bit weights do not", () => {
    expect(2 * uint8.qmax * symmetric7.qmax).toBeLessThan(2 ** 15);
    expect(2 * uint8.qmax * symmetric8.qmax).toBeGreaterThan(2 ** 15);
  });

  test("nothing but zeros has scale 1", () => {
    expect(affineQuantization(0, 0)).toEqual({ scale: 1, zeroPoint: 0 });
    expect(symmetricQuantization(0)).toEqual({ scale: 1, zeroPoint: 0 });
  });

  test("NaN and infinite ranges are errors", () => {
    expect(() => affineQuantization(Number.NaN, 1)).toThrow("a range must be finite");
    expect(() => symmetricQuantization(Number.POSITIVE_INFINITY)).toThrow("a range must be finite");
    const weight = Tensor.float32([2, 1], [1, Number.NaN]);
    expect(() => weightQuantization(weight, { axis: 0 })).toThrow("a range must be finite");
  });
});

describe("histograms of a stream", () => {
  test("count every value once, whatever comes first", () => {
    fc.assert(
      fc.property(reals, reals, (a, b) => {
        const histogram = new StreamingHistogram(16).add(a).add(b);
        const { positive, negative, zeros, min, max, width, maxAbs } = histogram;
        const all = [...a, ...b];
        expect([...positive, ...negative].reduce((n, c) => n + c, zeros)).toBe(all.length);
        expect([min, max]).toEqual([Math.min(...all), Math.max(...all)]);
        expect(maxAbs).toBeLessThanOrEqual(width * 16 * (1 + 1e-12));
      }),
    );
  });

  test("joined bins are those that the wide ones would have been", () => {
    const values = normal(1000);
    const grown = new StreamingHistogram(64)
      .add([1])
      .add(values.map((v) => v / 8))
      .add([7.5]);
    const wide = new StreamingHistogram(64);
    wide.width = grown.width;
    wide
      .add([1])
      .add(values.map((v) => v / 8))
      .add([7.5]);
    expect(grown.width).toBe(8 / 64);
    expect(grown.positive).toEqual(wide.positive);
    expect(grown.negative).toEqual(wide.negative);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])("%d is an error that says where", (v) =>
    expect(() => new StreamingHistogram().add([1, v], 'the value "conv1"')).toThrow(`the value "conv1" holds ${v}`),
  );
});

describe("calibrators", () => {
  const names = Object.keys(calibrators) as CalibratorName[];

  test.each(names)("%s stays within the values and holds zero", (name) => {
    fc.assert(
      fc.property(reals, (values) => {
        const { min, max } = calibrators[name](new StreamingHistogram().add(values), uint8);
        expect(min).toBeGreaterThanOrEqual(Math.min(0, ...values));
        expect(max).toBeLessThanOrEqual(Math.max(0, ...values));
        expect(min).toBeLessThanOrEqual(0);
        expect(max).toBeGreaterThanOrEqual(0);
      }),
    );
  });

  test("percentile cuts as many values as it says", () => {
    const values = Array.from({ length: 10_000 }, (_, i) => i + 1);
    const { min, max } = percentileCalibrator(99)(new StreamingHistogram().add(values), uint8);
    expect(min).toBe(0);
    expect(Math.abs(max - 9950)).toBeLessThan(5);
  });

  test("entropy and MSE give up an outlier, min-max does not", () => {
    const values = [...normal(100_000), 60];
    const histogram = new StreamingHistogram().add(values);
    expect(calibrators.minmax(histogram, uint8).max).toBe(60);
    expect(calibrators.entropy(histogram, uint8).max).toBeLessThan(20);
    // One clamped value in 100,000 costs (60 − max)² / 100,000.
    expect(calibrators.mse(histogram, uint8).max).toBeLessThan(58);
  });

  test("entropy keeps what fills its levels evenly", () => {
    const even = Array.from({ length: 2048 }, (_, i) => i + 0.5);
    expect(entropyCalibrator()(new StreamingHistogram().add(even), uint8).max).toBeGreaterThan(2040);
  });

  test("none has a smaller squared error than MSE's, but for the last percent", () => {
    fc.assert(
      fc.property(reals, (values) => {
        const histogram = new StreamingHistogram().add(values);
        const errorOf = (name: CalibratorName): number =>
          squaredError(histogram, calibrators[name](histogram, uint8), uint8);
        expect(errorOf("mse")).toBeLessThanOrEqual(errorOf("minmax"));
      }),
    );
  });
});

/** Outputs of a grouped 1×1 layer for one input. */
function layer(weight: Tensor, input: readonly number[], groups = 1): number[] {
  const [outputs, perGroup] = weight.shape;
  const w = weight.toFloat64();
  return Array.from({ length: outputs }, (_, o) => {
    const first = Math.floor(o / (outputs / groups)) * perGroup;
    let sum = 0;
    for (let i = 0; i < perGroup; i++) sum += w[o * perGroup + i] * input[first + i];
    return sum;
  });
}

describe.each([1, 2])("repairs of layers in %i groups", (groups) => {
  const weight = Tensor.float32([4, 4 / groups], normal(16 / groups));

  test("the shift of the bias is what rounding the weight adds to the mean", () => {
    const quantization = weightQuantization(weight, { axis: 0, range: { qmin: -7, qmax: 7 } });
    const rounded = dequantizeTensor(quantizeTensor(weight, quantization), quantization);
    const means = [0.5, -2, 3, 1];
    const shift = biasShift({ weight, groups }, rounded, means).toFloat64();
    const [exact, changed] = [layer(weight, means, groups), layer(rounded, means, groups)];
    for (const [i, s] of shift.entries()) expect(s).toBeCloseTo(changed[i] - exact[i], 5);
    const clamped = [0.5, -1.5, 2, 1];
    const both = biasShift({ weight, groups }, rounded, means, clamped).toFloat64();
    const lower = layer(rounded, clamped, groups);
    for (const [i, s] of both.entries()) expect(s).toBeCloseTo(lower[i] - exact[i], 5);
  });

  test.for<{ readonly size: readonly [number, number]; readonly attrs: OnnxNode["attrs"] }>([
    { size: [2, 2], attrs: { strides: [1, 1], pads: [1, 1, 1, 1], dilations: [1, 1] } },
    { size: [5, 7], attrs: { strides: [2, 1], pads: [2, 0, 1, 1], dilations: [1, 2] } },
    { size: [4, 8], attrs: { strides: [2, 3], auto_pad: "SAME_UPPER", dilations: [1, 1] } },
    { size: [6, 6], attrs: { strides: [2, 2], auto_pad: "SAME_LOWER", dilations: [1, 1] } },
    { size: [4, 3], attrs: { strides: [1, 1], auto_pad: "VALID", dilations: [1, 1] } },
  ])("the shift is that of a convolution's outputs, with padding: %o", async ({ size, attrs }) => {
    const kernel = Tensor.float32([4, 4 / groups, 3, 3], normal((16 / groups) * 9, 7));
    const x = Tensor.float32(
      [3, 4, ...size],
      normal(3 * 4 * size[0] * size[1], 8).map((v) => v + 1),
    );
    const quantization = weightQuantization(kernel, { axis: 0, range: { qmin: -7, qmax: 7 } });
    const rounded = dequantizeTensor(quantizeTensor(kernel, quantization), quantization);
    const node = {
      ...{ opType: "Conv", name: "y", inputs: ["x", "w"], outputs: ["y"] },
      attrs: { ...attrs, group: groups },
    };
    const sums = new Map<string, ColumnSums>();
    addColumns(sums, "y", x, waysOf(node, kernel.shape));
    const shift = biasShift({ weight: kernel, groups }, rounded, columnMeans(sums).get("y")!).toFloat64();
    const means = async (w: Tensor): Promise<number[]> => {
      await using program = await compileModel({
        ...{ opset: 17, nodes: [node], initializers: new Map([["w", w]]) },
        inputs: [{ name: "x", dtype: "float32", shape: x.shape }],
        outputs: [{ name: "y", dtype: "float32" }],
      });
      const { y } = await program.run({ x });
      const [count, channels, ...inner] = y.shape;
      const area = sizeOf(inner);
      const values = y.toFloat64();
      return Array.from({ length: channels }, (_, c) => {
        let sum = 0;
        for (let n = 0; n < count; n++) for (let i = 0; i < area; i++) sum += values[(n * channels + c) * area + i];
        return sum / (count * area);
      });
    };
    const [exact, changed] = [await means(kernel), await means(rounded)];
    for (const [i, s] of shift.entries()) expect(s).toBeCloseTo(changed[i] - exact[i], 4);
  });

  test("equalised layers compute the same and have one range per channel", () => {
    const first = { weight: Tensor.float32([4, 3], normal(12, 5)), bias: Tensor.float32([4], [1, -1, 0.5, 50]) };
    const [a, b] = equalizeLayers(first, { weight, groups });
    const run = (one: typeof first, two: Tensor): number[] => {
      const bias = one.bias.toFloat64();
      const hidden = layer(one.weight, [0.3, -1, 2]).map((v, i) => Math.max(0, v + bias[i]));
      return layer(two, hidden, groups);
    };
    const [before, after] = [run(first, weight), run({ weight: a.weight, bias: a.bias! }, b.weight)];
    for (const [i, v] of after.entries()) expect(v).toBeCloseTo(before[i], 4);
    const made = a.weight.toFloat64();
    const read = b.weight.toFloat64();
    const perGroup = 4 / groups;
    for (let c = 0; c < 4; c++) {
      const rows = [...read.keys()].filter(
        (i) => Math.floor(Math.floor(i / perGroup) / perGroup) * perGroup + (i % perGroup) === c,
      );
      const largest = Math.max(...rows.map((i) => Math.abs(read[i])));
      // The bias of the last channel is larger than its weights.
      const all = [...made.subarray(3 * c, 3 * c + 3), a.bias!.toFloat64()[c]];
      expect(Math.max(...all.map(Math.abs))).toBeCloseTo(largest, 4);
    }
  });
});

describe("the batch norm that is inserted behind a convolution", () => {
  const batch = (values: readonly number[]): Tensor => Tensor.float32([2, 2, 1, 2], values);
  const [one, two] = [batch([1, 3, 10, 10, 5, 7, 10, 14]), batch([0, 0, 0, 0, 4, 4, 0, 0])];

  test("takes the first batch as it is, and moves a tenth of the way for each further one", () => {
    const first = new BatchNormStatistics().add(one).batchNorm();
    expect([...first.runningMean.data]).toEqual([4, 11]);
    expect([...first.runningVar.data]).toEqual([5, 3]);
    const second = new BatchNormStatistics().add(one).add(two).batchNorm();
    const near = (t: Tensor, values: readonly number[]): void => {
      for (const [i, v] of t.toFloat64().entries()) expect(v).toBeCloseTo(values[i], 5);
    };
    near(second.runningMean, [0.9 * 4 + 0.1 * 2, 0.9 * 11]);
    near(second.runningVar, [0.9 * 5 + 0.1 * 4, 0.9 * 3]);
  });

  test("changes nothing", () => {
    const bias = Tensor.float32([2], [0.5, -3]);
    const norm = new BatchNormStatistics().add(one).batchNorm({ bias });
    const [mean, variance, gamma, beta] = [norm.runningMean, norm.runningVar, norm.weight, norm.bias].map((t) =>
      t.toFloat64(),
    );
    for (const y of [-2, 0, 5])
      for (const c of [0, 1])
        expect((gamma[c] * (y - mean[c])) / Math.sqrt(variance[c] + 1e-5) + beta[c]).toBeCloseTo(
          y + bias.toFloat64()[c],
          5,
        );
  });

  test("needs a batch", () => expect(() => new BatchNormStatistics().batchNorm()).toThrow("no batch was added"));
});

test("classes agree by row, and pixel by pixel where there are pixels", () => {
  const t = (shape: readonly number[], values: readonly number[]): Tensor => Tensor.float32(shape, values);
  expect(agreementOf([[t([2, 3], [1, 5, 2, 9, 0, 1]), t([2, 3], [0, 4, 3, 1, 2, 0])]])).toBe(0.5);
  // Two classes, three pixels: 1, 0, 1 and 1, 1, 1.
  const [a, b] = [t([1, 2, 1, 3], [0, 5, 0, 1, 4, 1]), t([1, 2, 1, 3], [0, 5, 0, 1, 6, 1])];
  expect(agreementOf([[a, b]])).toBeCloseTo(2 / 3);
});
