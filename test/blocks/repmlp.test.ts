import { describe, expect, test } from "vitest";
import { BaseBlock, ConvBn, ConvBnRelu, LightBlock, RepMLP, type RepMLPOptions } from "../../src/blocks/index.ts";
import { batchNorm, reachable, type Value } from "../../src/graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, Module, type Net, Parameter, traceModel } from "../../src/nn/index.ts";
import { convertToDeploy, HostAlgebra, mapOf, normAfter } from "../../src/reparam/index.ts";
import { compile } from "../../src/runtime/index.ts";
import { type Shape, Tensor } from "../../src/tensor/index.ts";
import { randomTensor, relativeError, withRandomState } from "../reparam/support.ts";

async function run(model: Net, x: Tensor): Promise<Tensor> {
  const { output } = traceModel(model.eval(), x.shape);
  await using program = await compile({ outputs: { output } }, { threads: 1 });
  return (await program.run({ input: x })).output;
}

/** A part of a picture `[1, C, H, W]`, from row and column on; zero outside. */
function cut(x: Tensor, [top, left]: readonly [number, number], [h, w]: readonly [number, number]): Tensor {
  const [, c, height, width] = x.shape;
  const from = x.toFloat64();
  const out: number[] = [];
  for (let ch = 0; ch < c; ch++)
    for (let i = top; i < top + h; i++)
      for (let j = left; j < left + w; j++) out.push(i < height && j < width ? from[(ch * height + i) * width + j] : 0);
  return Tensor.float32([1, c, h, w], out);
}

/** The same weights in a block for another map of as many partitions. */
function withValuesOf(block: RepMLP, options: RepMLPOptions): RepMLP {
  const other = new RepMLP(options).eval();
  other.loadStateDict(block.stateDict());
  return other;
}

describe("RepMLP", () => {
  const options = {
    inChannels: 4,
    outChannels: 6,
    groups: 2,
    partition: [3, 4],
    reparamConvKernels: [1, 3, 5],
  } as const;

  test("a map that the partition does not divide is padded at the right and bottom, and the result cropped", async () => {
    const block = withRandomState(new RepMLP({ ...options, height: 7, width: 6 }));
    const padded = withValuesOf(block, { ...options, height: 9, width: 8 });
    const x = randomTensor([1, 4, 7, 6], "picture");
    const expected = cut(await run(padded, cut(x, [0, 0], [9, 8])), [0, 0], [7, 6]);
    expect(relativeError(await run(block, x), expected)).toBeLessThan(1e-6);
  });

  test("the Local Perceptron sees zeros beyond its partition, not the neighbours", async () => {
    const model = withRandomState(new RepMLP({ ...options, height: 6, width: 8 }));
    const one = new RepMLP({ ...options, height: 3, width: 4 }).eval();
    const state = new Map(model.stateDict());
    one.loadStateDict(state, { allow: (key) => /^(fc1_fc2|avg)\./.test(key) });
    // FC1 and FC2 without effect: what is left works on each partition by itself.
    for (const p of [model.fc1Fc2!.fc2.weight, model.fc1Fc2!.fc2.bias!]) p.set(Tensor.zeros("float32", p.shape));
    const x = randomTensor([1, 4, 6, 8], "picture");
    const whole = await run(model, x);
    for (const corner of [
      [0, 0],
      [0, 4],
      [3, 0],
      [3, 4],
    ] as const)
      expect(relativeError(cut(whole, corner, [3, 4]), await run(one, cut(x, corner, [3, 4])))).toBeLessThan(1e-6);
  });

  test("the Global Perceptron adds one number per channel and partition", async () => {
    const model = withRandomState(new RepMLP({ inChannels: 2, partition: 2, height: 4, width: 6 }));
    // FC3 as the identity without bias.
    const identity = Tensor.float32(
      [8, 8, 1, 1],
      Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? 1 : 0)),
    );
    model.fc3.weight.set(identity);
    for (const [p, value] of [
      [model.fc3Bn!.weight, Math.sqrt(1 + 1e-5)],
      [model.fc3Bn!.bias, 0],
      [model.fc3Bn!.runningMean, 0],
      [model.fc3Bn!.runningVar, 1],
    ] as const)
      p.set(Tensor.full("float32", [8], value));
    const x = randomTensor([1, 2, 4, 6], "picture");
    const [y, before] = [await run(model, x), x.toFloat64()];
    const added = Tensor.float32(
      y.shape,
      y.toFloat64().map((v, i) => v - before[i]),
    );
    const perPartition = [0, 2].flatMap((top) => [0, 2, 4].map((left) => cut(added, [top, left], [2, 2]).toFloat64()));
    for (const values of perPartition)
      for (const channel of [values.subarray(0, 4), values.subarray(4)])
        for (const v of channel) expect(v).toBeCloseTo(channel[0], 5);
    expect(new Set(perPartition.map((v) => v[0].toFixed(4))).size).toBe(6);
  });

  const opsOf = (model: Net, shape: Shape): Record<string, number> => {
    const counts: Record<string, number> = {};
    for (const { op } of reachable([traceModel(model, shape).output]))
      if (/conv|linear|matmul|[nN]orm/.test(op.name)) counts[op.name] = (counts[op.name] ?? 0) + 1;
    return counts;
  };

  test("merged, there is one grouped layer and the Global Perceptron's two", () => {
    const block = withRandomState(new RepMLP({ ...options, height: 6, width: 8 })).eval();
    const shape = [2, 4, 6, 8];
    expect(opsOf(block, shape)).toEqual({ conv2d: 4, batchNorm: 5, linear: 2 });
    expect(opsOf(convertToDeploy(block), shape)).toEqual({ conv2d: 1, linear: 2 });
  });
});

describe("ConvBn", () => {
  test("a convolution that has a bias takes the batch norm in too", async () => {
    class Biased extends Module {
      readonly conv = new Conv2d(3, 4, { kernelSize: 3, stride: 2, padding: 1 });
      readonly bn = new BatchNorm2d(4);
      forward(x: Value): Value {
        const { weight, bias, runningMean, runningVar } = this.bn;
        return batchNorm(this.conv.forward(x), weight.value, bias.value, runningMean.value, runningVar.value);
      }
    }
    const model = withRandomState(new Biased()).eval();
    const x = randomTensor([2, 3, 7, 5], "picture");
    const k = new HostAlgebra();
    const { weight, bias } = normAfter(k, mapOf(k, model.conv), model.bn);
    const merged = cloneWith(model.conv, {
      weight: Parameter.from(weight.source()),
      bias: Parameter.from(bias.source()),
    });
    expect(relativeError(await run(merged, x), await run(model, x))).toBeLessThan(1e-6);
  });

  test("ConvBnRelu is ConvBn and a ReLU", async () => {
    const plain = withRandomState(new ConvBn(3, 4, { kernelSize: 1 }));
    const rectified = new ConvBnRelu(3, 4, { kernelSize: 1 });
    rectified.loadStateDict(plain.stateDict());
    const x = randomTensor([1, 3, 4, 4], "picture");
    expect((await run(rectified, x)).toFloat64()).toEqual((await run(plain, x)).toFloat64().map((v) => Math.max(0, v)));
  });
});

describe("residual blocks", () => {
  test("the shortcut is the input itself where the shape allows it", () => {
    const base = { inChannels: 4, midChannels: 2 };
    expect(new BaseBlock({ ...base, outChannels: 4 }).shortcut).toBeUndefined();
    expect(new BaseBlock({ ...base, outChannels: 6 }).shortcut).toBeInstanceOf(ConvBn);
    expect(new BaseBlock({ ...base, outChannels: 4, stride: 2 }).shortcut).toBeInstanceOf(ConvBn);
    const map = { height: 2, width: 2, partition: 2 };
    expect(new LightBlock({ ...base, ...map, outChannels: 4 }).shortcut).toBeUndefined();
    expect(new LightBlock({ ...base, ...map, outChannels: 6 }).shortcut).toBeInstanceOf(ConvBn);
  });

  test("with branches that give nothing, a block is the ReLU of its input", async () => {
    const block = withRandomState(new BaseBlock({ inChannels: 4, midChannels: 2, outChannels: 4 }));
    for (const p of [block.conv3.bn!.weight, block.conv3.bn!.bias]) p.set(Tensor.zeros("float32", [4]));
    const x = randomTensor([1, 4, 3, 3], "picture");
    expect((await run(block, x)).toFloat64()).toEqual(x.toFloat64().map((v) => Math.max(0, v)));
  });
});
