import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  type BranchKind,
  branchKinds,
  ConvBn,
  ConvBnRelu,
  type ReplacedConv,
  RepVGGBlock,
  replaceConvs,
} from "../../src/blocks/index.ts";
import { sampleDataset } from "../../src/data/index.ts";
import { add, relu, type Value } from "../../src/graph/index.ts";
import { OnnxNet, RepMLPResNet } from "../../src/models/index.ts";
import {
  BatchNorm2d,
  Conv2d,
  cloneModule,
  GlobalAvgPool,
  Linear,
  Module,
  type Net,
  Sequential,
} from "../../src/nn/index.ts";
import { decodeOnnx, type OnnxModel } from "../../src/onnx/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { rng, type Shape, sizeOf } from "../../src/tensor/index.ts";
import { Trainer } from "../../src/training/index.ts";
import { relativeError, runTogether, withRandomState } from "../reparam/support.ts";

/** Convolutions alone, with a norm of their own, with one inside, in a list, depthwise, and some that are left. */
class Mixed extends Module {
  readonly stem = new Conv2d(3, 8, { kernelSize: 7, padding: 3 });
  readonly conv = new Conv2d(8, 8, { kernelSize: 3, stride: 2, padding: 1, bias: false });
  readonly bn = new BatchNorm2d(8);
  readonly units = [
    new ConvBnRelu(8, 12, { kernelSize: 3, padding: 1 }),
    new ConvBn(12, 12, { kernelSize: 3, padding: 2, dilation: 2, groups: 12 }),
    new ConvBn(12, 12, { kernelSize: 5, padding: 2, groups: 3 }),
  ];
  readonly pointwise = new Conv2d(12, 12, { kernelSize: 1 });
  readonly pool = new GlobalAvgPool();
  readonly linear = new Linear(12, 5);

  forward(x: Value): Value {
    const y = relu(this.bn.forward(this.conv.forward(relu(this.stem.forward(x)))));
    const z = this.units.reduce((v, unit) => unit.forward(v), y);
    return this.linear.forward(this.pool.forward(add(this.pointwise.forward(z), z)));
  }
}

const onnx = (name: string): OnnxModel =>
  decodeOnnx(new Uint8Array(readFileSync(new URL(`../fixtures/graph/onnx/${name}.onnx`, import.meta.url))));

const nets: Readonly<Record<string, { readonly make: () => Net; readonly shape: Shape }>> = {
  "a network of one's own": { make: () => new Mixed(), shape: [4, 3, 12, 10] },
  "a residual network": {
    make: () =>
      new RepMLPResNet({
        ...{ blockType: "base", stemChannels: 4, channels: [8, 8, 12, 16], numBlocks: [1, 1, 1, 1], numClasses: 5 },
        ...{ partition: 1, imageSize: 32 },
      }),
    shape: [4, 3, 32, 32],
  },
  "a merged network": {
    make: () =>
      convertToDeploy(
        withRandomState(
          new Sequential(
            new RepVGGBlock({ inChannels: 3, outChannels: 6, stride: 2 }),
            new RepVGGBlock({ inChannels: 6, outChannels: 5 }),
            new GlobalAvgPool(),
          ),
        ).eval(),
      ),
    shape: [4, 3, 9, 8],
  },
  "an ONNX model": { make: () => new OnnxNet(onnx("cnn-13")), shape: [4, 3, 17, 19] },
};
const cases = Object.keys(nets).flatMap((name) => branchKinds.map((kind) => [name, kind] as const));

/** Losses of each step of a few epochs on pictures whose colour tells the class. */
async function train(model: Net, [, ...imageShape]: Shape): Promise<number[]> {
  const pictures = sampleDataset({
    length: 32,
    classes: Array.from({ length: 5 }, (_, i) => `${i}`),
    imageShape: imageShape as [number, number, number],
    sample: (index) => {
      const random = rng(index, "picture");
      const label = index % 5;
      const image = Float32Array.from(
        { length: sizeOf(imageShape) },
        (_, i) => random.normal() + (i % 5 === label ? 2 : 0),
      );
      return { image, label };
    },
  });
  const losses: number[] = [];
  await new Trainer(model, {
    ...{ data: { train: pictures }, epochs: 3, batchSize: 8, lr: 0.05, seed: 1, threads: 1 },
    onEvent: (event) => void (event.type === "step" && losses.push(event.loss)),
  }).run();
  return losses;
}

const outputs = (models: readonly Net[], shape: Shape) => runTogether(models.map((model) => ({ model, shape })));

test.for(cases)(
  "%s with branches of %s is the same function, trains, and merges back to plain",
  async ([name, kind]) => {
    const { make, shape } = nets[name];
    const plain = withRandomState(make()).eval();
    const before = [...convertToDeploy(plain).stateDict().keys()];
    const replaced = replaceConvs(plain, kind);
    expect([...replaced.modules()].filter(([, m]) => m.training)).toEqual([]);
    expect([...replaced.stateDict().keys()].filter((key) => key.includes(".branches."))).not.toEqual([]);
    const [expected, actual] = await outputs([plain, replaced], shape);
    expect(relativeError(actual, expected)).toBeLessThanOrEqual(1e-6);

    const losses = await train(replaced, shape);
    const epoch = (from: number): number => losses.slice(from, from + 4).reduce((a, b) => a + b);
    expect(epoch(8)).toBeLessThan(epoch(0));
    replaced.eval();
    const merged = convertToDeploy(replaced);
    expect([...merged.stateDict().keys()].filter((key) => !before.includes(key) && !key.endsWith("bias"))).toEqual([]);
    expect([...merged.stateDict().keys()].some((key) => key.includes("branches"))).toBe(false);
    const [trained, after] = await outputs([replaced, merged], shape);
    expect(relativeError(trained, expected)).toBeGreaterThan(1e-3);
    expect(relativeError(after, trained)).toBeLessThanOrEqual(1e-5);
  },
);

test("in training mode, too, it starts as the same function", async () => {
  const model = withRandomState(new Mixed()).train();
  const losses = await Promise.all(
    [cloneModule(model), replaceConvs(model, "dbb")].map(async (net) => (await train(net, [1, 3, 12, 10]))[0]),
  );
  expect(losses[1]).toBeCloseTo(losses[0], 6);
});

test("says which convolutions it replaced, which it left, and why", () => {
  const explained = (kind: BranchKind, net: Net = new Mixed()): string[] => {
    const entries: ReplacedConv[] = [];
    replaceConvs(net, kind, { explain: (entry) => entries.push(entry) });
    return entries.map(({ path, replaced, note }) => `${path} ${replaced ? "+" : "-"} ${note}`);
  };
  expect(explained("dbb")).toEqual([
    "stem - 7x7 kernels are left out",
    "conv + 3x3 convolution with branches of DBB",
    "units.0 + 3x3 convolution with branches of DBB",
    "units.1 + 3x3 convolution with branches of DBB",
    "units.2 + 5x5 convolution with branches of DBB",
    "pointwise - 1x1 kernels are left out",
  ]);
  const odd = new Sequential(
    new Conv2d(4, 4, { kernelSize: 3 }),
    new Conv2d(4, 4, { kernelSize: [3, 5], padding: [1, 2] }),
    new Conv2d(4, 4, { kernelSize: 2 }),
    new Conv2d(4, 2, { kernelSize: 3, padding: 1, groups: 2 }),
    new RepVGGBlock({ inChannels: 2, outChannels: 4 }),
    new Conv2d(4, 4, { kernelSize: 3, padding: 1 }),
  );
  expect(explained("dbb", odd)).toEqual([
    "0 - padding [0, 0] is not half its kernel",
    "1 + 3x5 convolution with branches of DBB",
    "2 - a 2x2 kernel has no middle",
    "3 - 2 groups are as many as output channels, but not as many as input channels",
    "4 - RepVGGBlock has branches already",
    "5 + 3x3 convolution with branches of DBB",
  ]);
  expect(explained("repvgg", odd).slice(0, 2)).toEqual([
    "0 - padding [0, 0] is not half its kernel, so that smaller ones have no place",
    "1 - its two axes differ",
  ]);
  expect(explained("acb", odd)[0]).toBe("0 + 3x3 convolution with branches of ACB");
});

test("leaves convolutions with the same weights, and says so where none is left", () => {
  const [a, b] = [1, 2].map(() => new Conv2d(4, 4, { kernelSize: 3, padding: 1 }));
  Object.assign(b, { weight: a.weight });
  expect(() => replaceConvs(new Sequential(a, b), "acb")).toThrow(
    "`replaceConvs`: no convolution can be replaced by acb: 0: other layers have the same weights, 1: other layers",
  );
  expect(() => replaceConvs(new Linear(2, 2), "acb")).toThrow("by acb, since there is none. Choose another block");
});

test("takes only what the filter lets pass", () => {
  const replaced = replaceConvs(new Mixed(), "acb", { filter: (path) => path === "stem" });
  const keys = [...replaced.stateDict().keys()].filter((key) => key.includes("branches"));
  expect(keys.every((key) => key.startsWith("stem.branches."))).toBe(true);
  expect(keys.length).toBeGreaterThan(0);
});
