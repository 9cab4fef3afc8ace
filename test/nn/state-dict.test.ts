import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { BaseBlock, BottleneckBlock, ConvBn, LightBlock, RepMLP } from "../../src/blocks/index.ts";
import type { Value } from "../../src/graph/index.ts";
import { RepMLPResNet } from "../../src/models/index.ts";
import { BatchNorm2d, Conv2d, Linear, Module, Parameter, Sequential, type StateNames } from "../../src/nn/index.ts";
import { openCheckpointFile } from "../../src/node.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";

const keys = (model: Module): string[] => [...model.state()].map(([key]) => key);

describe("names, order and shapes are those of PyTorch", () => {
  const map = { height: 8, width: 8, partition: 4 };
  const cases: [string, () => Module][] = [
    [
      "repmlp/repmlp_15_unordered_k",
      () => new RepMLP({ inChannels: 4, ...map, reparamConvKernels: [3, 1], groups: 4 }),
    ],
    ["repmlp/repmlp_10_nolocal", () => new RepMLP({ inChannels: 6, ...map, groups: 3 })],
    [
      "repmlp/repmlp_08_CltO",
      () => new RepMLP({ inChannels: 4, outChannels: 6, ...map, reparamConvKernels: [1, 3], groups: 2 }),
    ],
    ["convbn/convbn_01_3x3", () => new ConvBn(6, 8, { kernelSize: 3, stride: 2, padding: 1, groups: 2 })],
    ["baseblock/base_01_stride2", () => new BaseBlock({ inChannels: 8, midChannels: 4, outChannels: 16, stride: 2 })],
    ["baseblock/base_02_identity", () => new BaseBlock({ inChannels: 16, midChannels: 4, outChannels: 16 })],
    [
      "light/light_02_project",
      () =>
        new LightBlock({
          inChannels: 12,
          midChannels: 8,
          outChannels: 16,
          ...map,
          width: 12,
          reparamConvKernels: [1, 3, 5],
          fc1Fc2Reduction: 2,
          groups: 4,
        }),
    ],
    [
      "bottleneck/bottleneck_02_project_r4",
      () =>
        new BottleneckBlock({
          inChannels: 12,
          midChannels: 16,
          outChannels: 24,
          reduction: 4,
          ...map,
          height: 4,
          reparamConvKernels: [1, 3],
          groups: 2,
        }),
    ],
    [
      "repmlp_resnet/resnet_01_light",
      () =>
        new RepMLPResNet({
          blockType: "light",
          imageSize: 64,
          stemChannels: 8,
          channels: [16, 32, 64, 128],
          numBlocks: [1, 2, 2, 1],
          numClasses: 10,
          partition: 4,
          reparamConvKernels: [1, 3],
          groups: 2,
        }),
    ],
  ];
  test.for(cases)("%s", async ([name, build]) => {
    using file = await openCheckpointFile(join(import.meta.dirname, `../fixtures/golden/${name}.safetensors`));
    const expected = (form: string): string[] =>
      [...file.entries].flatMap(([key, t]) =>
        key.startsWith(`${form}.`) && key !== `${form}.output` ? [`${key.slice(form.length + 1)} [${t.shape}]`] : [],
      );
    const own = (model: Module): string[] => [...model.state()].map(([key, p]) => `${key} [${p.shape}]`);
    const model = build();
    expect(own(model)).toEqual(expected("train"));
    // The original registers its merged layers anew, so only the names are the same.
    expect(own(convertToDeploy(model.eval())).sort()).toEqual(expected("deploy").sort());
  });

  test("the data types too: counters are 64-bit integers", () => {
    const state = [...new BatchNorm2d(3).state()].map(([key, p]) => `${key} ${p.dtype} [${p.shape}]`);
    expect(state).toEqual([
      "weight float32 [3]",
      "bias float32 [3]",
      "running_mean float32 [3]",
      "running_var float32 [3]",
      "num_batches_tracked int64 []",
    ]);
  });
});

describe("a field's name in the state dict", () => {
  const layer = (): Linear => new Linear(1, 1, { bias: false });

  class Fields extends Module {
    static override readonly stateNames: StateNames = {
      renamed: "other.name",
      branches: (size) => `branch${size.slice(1)}`,
      stack: (index) => index,
    };
    readonly plain = layer();
    readonly fc1Fc2 = layer();
    readonly lastBn2d = new BatchNorm2d(1);
    readonly renamed = layer();
    readonly branches = { k3: layer(), k1: layer() };
    readonly stack = [layer(), layer()];
    readonly list = [layer(), new Sequential(layer())];
    readonly grid = [[layer()], { left: layer() }];
    readonly absent: Module | undefined = undefined;
    readonly options = { sizes: [1, 2], name: "no layer" };
    readonly scale = new Parameter([1], { init: () => [1] });
  }

  test("is the field in snake case, its position in a list, its key in a record, or what stateNames says", () => {
    expect(keys(new Fields()).filter((key) => !/running|num_batches|bias/.test(key))).toEqual([
      "scale",
      "plain.weight",
      "fc1_fc2.weight",
      "last_bn2d.weight",
      "other.name.weight",
      "branch3.weight",
      "branch1.weight",
      "0.weight",
      "1.weight",
      "list.0.weight",
      "list.1.0.weight",
      "grid.0.0.weight",
      "grid.1.left.weight",
    ]);
  });

  test("is taken over by a copy", () => {
    expect(keys(convertToDeploy(new Fields().eval()))).toEqual(keys(new Fields()));
  });
});

/** Two layers. */
class Net extends Module {
  readonly body = new Conv2d(1, 2, { kernelSize: 3 });
  readonly norm = new BatchNorm2d(2);
  readonly head = new Linear(2, 3);
  forward(x: Value): Value {
    return x;
  }
}

describe("loadStateDict", () => {
  const entriesOf = (model: Module): Map<string, TensorSource> => new Map(model.stateDict());
  const other = (): Map<string, TensorSource> => entriesOf(new Net().initialize(1));
  const without = (key: string) => (entries: Map<string, TensorSource>) => entries.delete(key);
  const withNew = (key: string, shape: number[]) => (entries: Map<string, TensorSource>) =>
    entries.set(key, Tensor.zeros("float32", shape));

  test("takes every value", () => {
    const [model, entries] = [new Net(), other()];
    expect(model.loadStateDict(entries)).toEqual({ missing: [], unexpected: [], mismatched: [] });
    expect(entriesOf(model)).toEqual(entries);
  });

  test("does not mind counters that files of other frameworks lack", () => {
    const entries = other();
    without("norm.num_batches_tracked")(entries);
    withNew("head.num_batches_tracked", [])(entries);
    expect(new Net().loadStateDict(entries)).toEqual({
      missing: ["norm.num_batches_tracked"],
      unexpected: ["head.num_batches_tracked"],
      mismatched: [],
    });
  });

  test("rounds values of another floating dtype", () => {
    const model = new Net();
    model.loadStateDict(other().set("head.bias", Tensor.of("float16", [3], [1, 0.5, -2])));
    expect([model.head.bias!.dtype, ...model.head.bias!.data.data]).toEqual(["float32", 1, 0.5, -2]);
  });

  const unreadable = {
    dtype: "float16",
    shape: [3],
    read: () => Promise.reject(new Error("truncated")),
    readSync: () => {
      throw new Error("truncated");
    },
  } as const satisfies TensorSource;

  const wrong: [string, (entries: Map<string, TensorSource>) => unknown][] = [
    ["a missing key", without("head.bias")],
    ["an unexpected key", withNew("neck.weight", [1])],
    ["another shape", withNew("head.weight", [10, 2])],
    ["a value that cannot be read", (entries) => entries.set("head.bias", unreadable)],
  ];
  test.for(wrong)("changes nothing when it throws: %s", ([, change]) => {
    const model = new Net().initialize();
    const before = entriesOf(model);
    const entries = other();
    change(entries);
    expect(() => model.loadStateDict(entries)).toThrow();
    expect(entriesOf(model)).toEqual(before);
  });

  test("names the keys concerned", () => {
    const load = (entries: ReadonlyMap<string, TensorSource>) => () => new Net().loadStateDict(entries);
    const entries = other();
    without("head.bias")(entries);
    withNew("neck.weight", [1])(entries);
    expect(load(entries)).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: state dict: the keys do not match the model. Missing 1: head.bias. Unexpected 1: neck.weight. Check that the architecture and the form (training or deploy) are those of the file.]`,
    );
    const many = Array.from({ length: 9 }, (_, i) => [`extra.${i}`, Tensor.scalar(0)] as const);
    expect(load(new Map([...other(), ...many]))).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: state dict: the keys do not match the model. Unexpected 9: extra.0, extra.1, extra.2, extra.3, extra.4 … and 4 more. Check that the architecture and the form (training or deploy) are those of the file.]`,
    );
    const unlike = other();
    withNew("norm.weight", [1])(unlike);
    expect(load(unlike)).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: state dict: norm.weight has shape [1] in the file, the model expects [2]]`,
    );
  });

  test("allow lets some keys differ: a new head for a trained body", () => {
    const model = new Net().initialize();
    const [entries, head] = [other(), model.head.weight.data];
    withNew("head.weight", [10, 2])(entries);
    without("head.bias")(entries);
    withNew("neck.weight", [1])(entries);
    const report = model.loadStateDict(entries, { allow: (key) => /^(head|neck)\./.test(key) });
    expect(report).toEqual({ missing: ["head.bias"], unexpected: ["neck.weight"], mismatched: ["head.weight"] });
    expect(model.head.weight.data).toBe(head);
    expect(model.body.weight.data).toEqual(entries.get("body.weight"));
  });

  test("strict: false lets keys be missing, but no shape be wrong", () => {
    const entries = new Map([["body.bias", Tensor.float32([2], [5, 6])]]);
    const model = new Net();
    expect(model.loadStateDict(entries, { strict: false }).missing).toContain("head.weight");
    expect([...model.body.bias!.data.data]).toEqual([5, 6]);
    expect(() => model.loadStateDict(new Map([["body.bias", Tensor.scalar(1)]]), { strict: false })).toThrow(
      "body.bias has shape [] in the file, the model expects [2]",
    );
  });

  test("reads nothing that fits: values stay in the file until they are needed", () => {
    const lazy = (t: TensorSource): TensorSource => ({
      dtype: t.dtype,
      shape: t.shape,
      read: () => Promise.reject(new Error("read")),
      readSync: () => {
        throw new Error("read");
      },
    });
    const entries = new Map([...other()].map(([key, t]) => [key, lazy(t)]));
    const model = new Net();
    model.loadStateDict(entries);
    expect(() => model.head.weight.data).toThrow("read");
  });
});
