import { describe, expect, test } from "vitest";
import { BottleneckBlock, ConvBn, ConvBnRelu, LightBlock, RepMLP, RepVGGBlock } from "../../src/blocks/index.ts";
import { add, globalAvgPool, relu, type Value } from "../../src/graph/index.ts";
import { RepMLPMixer } from "../../src/models/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, Linear, Module, type Parameter, toDtype } from "../../src/nn/index.ts";
import {
  type ConversionEntry,
  convertToDeploy,
  deployForm,
  equivalentInGraph,
  type KernelAlgebra,
  type Merge,
  mergedForm,
  type NamedTensors,
  namedMap,
  type Reparameterizable,
} from "../../src/reparam/index.ts";
import { oneHotTargets } from "../../src/tasks/index.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { Learner, sgd } from "../../src/training/index.ts";
import { randomTensor, relativeError, runTogether, withRandomState } from "./support.ts";

/** Merged blocks in lists and records, a plain batch norm that stays, and layers without any merge. */
class Mixed extends Module {
  readonly stem = new ConvBnRelu(3, 8, { kernelSize: 3, padding: 1 });
  readonly stages = [
    new RepMLP({ inChannels: 8, height: 6, width: 6, partition: 3, reparamConvKernels: [1, 3], groups: 2 }),
    new Conv2d(8, 8, { kernelSize: 1 }),
  ];
  readonly norm = new BatchNorm2d(8);
  readonly heads = { main: new Linear(8, 5) };

  forward(x: Value): Value {
    const y = this.stages.reduce((v: Value, stage) => stage.forward(v), this.stem.forward(x));
    return this.heads.main.forward(globalAvgPool(relu(this.norm.forward(y))));
  }
}
const mixed = (): Mixed => withRandomState(new Mixed()).eval();

const snapshot = (model: Module): Map<string, Tensor> =>
  new Map([...model.stateDict()].map(([key, t]) => [key, t.readSync().clone()]));

describe("convertToDeploy", () => {
  test("merges every block, wherever it stands, and tells about each", () => {
    const entries: ConversionEntry[] = [];
    convertToDeploy(mixed(), { explain: (e) => entries.push(e) });
    expect(entries).toMatchInlineSnapshot(`
      [
        {
          "block": "ConvBnRelu",
          "merged": true,
          "note": "batch norm into the convolution",
          "path": "stem",
        },
        {
          "block": "RepMLP",
          "merged": true,
          "note": "the pool's batch norm into FC1, the batch norms and the local kernels 1, 3 into FC3",
          "path": "stages.0",
        },
      ]
    `);
  });

  test("leaves other layers as they are", () => {
    expect([...convertToDeploy(mixed()).stateDict().keys()]).toMatchInlineSnapshot(`
      [
        "stem.conv.weight",
        "stem.conv.bias",
        "stages.0.fc1_fc2.fc1.weight",
        "stages.0.fc1_fc2.fc1.bias",
        "stages.0.fc1_fc2.fc2.weight",
        "stages.0.fc1_fc2.fc2.bias",
        "stages.0.fc3.weight",
        "stages.0.fc3.bias",
        "stages.1.weight",
        "stages.1.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "heads.main.weight",
        "heads.main.bias",
      ]
    `);
  });

  test("keeps the classes, so that the result can be used as the original", () => {
    const deploy = convertToDeploy(mixed());
    expect(deploy).toBeInstanceOf(Mixed);
    expect(deploy.stages[0]).toBeInstanceOf(RepMLP);
  });

  test("of a converted model gives the same values under the same keys", () => {
    const once = convertToDeploy(mixed());
    const entries: ConversionEntry[] = [];
    const twice = convertToDeploy(once, { explain: (e) => entries.push(e) });
    expect(snapshot(twice)).toEqual(snapshot(once));
    expect(entries.map(({ merged, note }) => ({ merged, note }))).toEqual(
      Array(2).fill({ merged: false, note: "already merged" }),
    );
  });

  test("a single block or layer is a model too", () => {
    const unit = withRandomState(new ConvBn(3, 4, { kernelSize: 3 })).eval();
    expect([...convertToDeploy(unit).stateDict().keys()]).toEqual(["conv.weight", "conv.bias"]);
    const layer = new Linear(3, 4).eval();
    expect(convertToDeploy(layer).stateDict()).toEqual(layer.stateDict());
  });

  test("refuses training mode with the reason", () => {
    const model = mixed();
    expect(() => convertToDeploy(model.train())).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: convert: the model is in training mode, where batch norm uses batch statistics, so there is no equal merged form. Call model.eval() first.]`,
    );
    model.eval().stages[0].train();
    expect(() => convertToDeploy(model)).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: convert: stages.0 of the model is in training mode, where batch norm uses batch statistics, so there is no equal merged form. Call model.eval() first.]`,
    );
    model.eval().norm.train();
    expect(() => convertToDeploy(model)).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: convert: norm of the model is in training mode, where batch norm uses batch statistics, so there is no equal merged form. Call model.eval() first.]`,
    );
  });

  test("a block used in two places stays one block", async () => {
    class Twice extends Module {
      readonly first = new RepMLP({ inChannels: 2, height: 4, width: 4, partition: 2, reparamConvKernels: [3] });
      readonly second = this.first;
      forward(x: Value): Value {
        return this.second.forward(relu(this.first.forward(x)));
      }
    }
    const model = withRandomState(new Twice()).eval();
    const deploy = convertToDeploy(model);
    expect(deploy.second).toBe(deploy.first);
    expect([...deploy.stateDict().keys()]).toContain("second.fc3.bias");
    const shape = [2, 2, 4, 4];
    const [expected, actual] = await runTogether([
      { model, shape },
      { model: deploy, shape },
    ]);
    expect(relativeError(actual, expected)).toBeLessThan(1e-5);
  });
});

describe("the original after a conversion", () => {
  test("is not changed", () => {
    const model = mixed();
    const before = snapshot(model);
    convertToDeploy(model);
    expect(snapshot(model)).toEqual(before);
    expect([...model.modules()].map(([path]) => path)).toContain("stages.0.repconv3.bn");
  });

  test("can be trained on; the converted model keeps its values", async () => {
    const model = mixed();
    const deploy = convertToDeploy(model);
    const [before, deployBefore] = [snapshot(model), snapshot(deploy)];
    const learner = new Learner(model, { optimizer: sgd() });
    await learner.train(randomTensor([4, 3, 6, 6], "batch"), oneHotTargets([0, 1, 2, 3], 5), 0.1);
    await learner.sync();
    await learner.dispose();
    for (const key of ["stem.conv.weight", "stages.0.fc3_bn.running_var", "heads.main.bias"])
      expect(snapshot(model).get(key), key).not.toEqual(before.get(key));
    expect(snapshot(deploy)).toEqual(deployBefore);
  });

  test("shares what is not merged, unless a copy is asked for", () => {
    const model = mixed();
    const key = "heads.main.weight";
    const storage = (m: Module): unknown => m.stateDict().get(key)!.readSync().data.buffer;
    expect(storage(convertToDeploy(model))).toBe(storage(model));
    expect(storage(convertToDeploy(model, { copy: true }))).not.toBe(storage(model));
    expect(snapshot(convertToDeploy(model, { copy: true }))).toEqual(snapshot(convertToDeploy(model)));
  });

  test("and setting a value in one does not reach the other", () => {
    const model = mixed();
    const deploy = convertToDeploy(model);
    const before = deploy.heads.main.weight.data;
    model.heads.main.weight.set(Tensor.zeros("float32", [5, 8]));
    expect(deploy.heads.main.weight.data).toBe(before);
  });
});

describe("half precision", () => {
  const blocks = [
    new RepMLP({
      inChannels: 4,
      outChannels: 2,
      height: 6,
      width: 3,
      partition: 3,
      reparamConvKernels: [1, 5],
      groups: 2,
    }),
    new LightBlock({ inChannels: 4, midChannels: 2, outChannels: 6, height: 4, width: 4, partition: 2 }),
    new BottleneckBlock({
      inChannels: 4,
      midChannels: 4,
      outChannels: 4,
      reduction: 2,
      height: 2,
      width: 2,
      partition: 2,
    }),
  ];
  test.for(blocks.map((block) => ({ name: block.constructor.name, block })))(
    "is merged in float64 and rounded once: $name",
    ({ block }) => {
      const half = toDtype(withRandomState(block).eval(), "float16");
      const exact = snapshot(convertToDeploy(toDtype(half, "float64")));
      for (const [key, t] of snapshot(convertToDeploy(half))) {
        expect(t.dtype, key).toBe("float16");
        expect(t.data, key).toEqual(exact.get(key)!.cast("float16").data);
      }
    },
  );
});

describe("deployForm", () => {
  /** Values that note when they are read. */
  function watched(model: Module, reads: string[], fail = false): void {
    for (const [key, p] of model.state()) {
      const tensor = p.data;
      const read = (): Tensor => {
        reads.push(key);
        if (fail) throw new Error(`${key} was read`);
        return tensor;
      };
      const source: TensorSource = { dtype: p.dtype, shape: p.shape, readSync: read, read: async () => read() };
      p.set(source);
    }
  }
  const parameter = (model: Module, key: string): Parameter => new Map(model.state()).get(key)!;

  test("reads and computes nothing", () => {
    const model = mixed();
    const reads: string[] = [];
    watched(model, reads, true);
    const deploy = deployForm(model);
    expect([...deploy.state()].map(([key, p]) => `${key} [${p.shape}]`)).toMatchInlineSnapshot(`
      [
        "stem.conv.weight [8,3,3,3]",
        "stem.conv.bias [8]",
        "stages.0.fc1_fc2.fc1.weight [32,32]",
        "stages.0.fc1_fc2.fc1.bias [32]",
        "stages.0.fc1_fc2.fc2.weight [32,32]",
        "stages.0.fc1_fc2.fc2.bias [32]",
        "stages.0.fc3.weight [72,36,1,1]",
        "stages.0.fc3.bias [72]",
        "stages.1.weight [8,8,1,1]",
        "stages.1.bias [8]",
        "norm.weight [8]",
        "norm.bias [8]",
        "norm.running_mean [8]",
        "norm.running_var [8]",
        "norm.num_batches_tracked []",
        "heads.main.weight [5,8]",
        "heads.main.bias [5]",
      ]
    `);
    expect(reads).toEqual([]);
    expect(() => parameter(deploy, "stem.conv.bias").data).toThrow("was read");
  });

  test("needs no values, not even in training mode: it is the target for a merged checkpoint", () => {
    const build = (): RepMLPMixer =>
      new RepMLPMixer({ imageSize: 8, partition: 2, channels: [4, 4, 8], groups: [2, 2, 2] });
    const deploy = deployForm(build());
    const file = convertToDeploy(withRandomState(build()).eval()).stateDict();
    expect(deploy.loadStateDict(file)).toEqual({ missing: [], unexpected: [], mismatched: [] });
    expect(snapshot(deploy)).toEqual(snapshotOf(file));
  });

  test("a parameter is derived when it is read, from what it needs and nothing else", () => {
    const model = mixed();
    const reads: string[] = [];
    watched(model, reads);
    const deploy = deployForm(model);
    expect(parameter(deploy, "stages.0.fc1_fc2.fc1.weight").data.shape).toEqual([32, 32]);
    const needed = ["fc1_fc2.fc1.weight", "avg.bn.weight", "avg.bn.running_var"];
    expect(new Set(reads)).toEqual(new Set(needed.map((key) => `stages.0.${key}`)));
  });

  test("follows the original's later values, while a converted model does not", () => {
    const model = mixed();
    const [lazy, fixed] = [deployForm(model), convertToDeploy(model)];
    model.stem.bn!.bias.set(Tensor.full("float32", [8], 3));
    const bias = (m: Mixed): Tensor => m.stem.conv.bias!.data;
    expect(bias(lazy)).toEqual(bias(convertToDeploy(model)));
    expect(bias(lazy)).not.toEqual(bias(fixed));
  });

  test("reads in the asynchronous way too", async () => {
    const model = mixed();
    const key = "stages.0.fc3.weight";
    const source = parameter(deployForm(model), key).source();
    expect(await source.read()).toEqual(source.readSync());
  });
});

const snapshotOf = (entries: ReadonlyMap<string, TensorSource>): Map<string, Tensor> =>
  new Map([...entries].map(([key, t]) => [key, t.readSync()]));

describe("a block of one's own", () => {
  /** Two parallel convolutions without bias: their sum is one. */
  class Sum extends Module implements Reparameterizable {
    readonly a = new Conv2d(2, 3, { kernelSize: 3, bias: false });
    readonly b: Conv2d | undefined = new Conv2d(2, 3, { kernelSize: 3, bias: false });

    forward(x: Value): Value {
      const y = this.a.forward(x);
      return this.b ? add(y, this.b.forward(x)) : y;
    }

    merge(): Merge {
      if (!this.b) return { kept: "there is one branch" };
      return { merged: mergedForm(cloneWith(this as Sum, { b: undefined }), this), note: "b into a" };
    }

    equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
      const [a, b] = [this.a, this.b].map((conv) => conv && k.of(conv.weight));
      return { "a.weight": k.add(a as T, ...(b === undefined ? [] : [b])) };
    }
  }

  test("is merged because it has a merge method; its merged form says why it is kept", async () => {
    const notes: ConversionEntry[] = [];
    const model = new Sum().eval();
    const deploy = convertToDeploy(model, { explain: (e) => notes.push(e) });
    convertToDeploy(deploy, { explain: (e) => notes.push(e) });
    expect(notes).toEqual([
      { path: "", block: "Sum", merged: true, note: "b into a" },
      { path: "", block: "Sum", merged: false, note: "there is one branch" },
    ]);
    expect([...deploy.stateDict().keys()]).toEqual(["a.weight"]);
    const shape = [2, 2, 5, 7];
    const [expected, actual] = await runTogether([model, deploy].map((m) => ({ model: m, shape })));
    expect(relativeError(actual, expected)).toBeLessThan(1e-6);
  });
});

describe("a merge owns what is below its block", () => {
  /** Two blocks that are merged on their own anywhere else; this one keeps the second as it is. */
  class Owner extends Module implements Reparameterizable {
    readonly taken: ConvBn;
    readonly spared: ConvBn;
    readonly done: boolean;

    constructor(done: boolean) {
      super();
      this.taken = new ConvBn(2, 2, { kernelSize: 1 });
      this.spared = new ConvBn(2, 2, { kernelSize: 1 });
      this.done = done;
    }

    forward(x: Value): Value {
      return this.spared.forward(this.taken.forward(x));
    }

    equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
      return namedMap("taken.conv", this.taken.fused(k));
    }

    merge(): Merge {
      if (this.done) return { kept: "nothing to do" };
      const taken = cloneWith(this.taken, { bn: undefined });
      return { merged: mergedForm(cloneWith(this as Owner, { taken, done: true }), this), note: "one of two" };
    }
  }

  test.for([
    { done: false, note: "one of two", norms: ["owner.spared.bn"] },
    { done: true, note: "nothing to do", norms: ["owner.taken.bn", "owner.spared.bn"] },
  ])("nothing in it is visited on its own: $note", ({ done, note, norms }) => {
    class Net extends Module {
      readonly owner = new Owner(done);
      readonly beside = new ConvBn(2, 2, { kernelSize: 1 });
      forward(x: Value): Value {
        return this.beside.forward(this.owner.forward(x));
      }
    }
    const entries: ConversionEntry[] = [];
    const model = withRandomState(new Net()).eval();
    const deploy = convertToDeploy(model, { explain: (e) => entries.push(e) });
    expect(entries.map((e) => `${e.path}: ${e.note}`)).toEqual([
      `owner: ${note}`,
      "beside: batch norm into the convolution",
    ]);
    const left = [...deploy.modules()].flatMap(([path, m]) => (m instanceof BatchNorm2d ? [path] : []));
    expect(left).toEqual(norms);
    expect([...equivalentInGraph(model).keys()]).toEqual(
      ["owner.taken.conv", "beside.conv"].flatMap((layer) => [`${layer}.weight`, `${layer}.bias`]),
    );
  });

  test("layers that a merge adds are in its block's mode, and those it has are left alone", () => {
    const block = new RepVGGBlock({ inChannels: 32, outChannels: 32, useSe: true });
    expect(deployForm(block).rbrReparam!.training).toBe(true);
    block.eval().se!.train();
    const deploy = deployForm(block);
    expect([deploy.rbrReparam!.training, deploy.se!.training, block.se!.training]).toEqual([false, true, true]);
  });

  test("weights that do not fit the merged form are named", () => {
    class Wrong extends Owner {
      override equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
        return { "taken.conv.weight": k.padKernel(this.taken.fused(k).weight, 3) };
      }
    }
    expect(() => new Wrong(false).merge()).toThrow(
      "merge: taken.conv.weight is [2, 2, 3, 3] after the merge, the merged form expects [2, 2, 1, 1]",
    );
    class Lost extends Owner {
      override equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
        return namedMap("gone", this.taken.fused(k));
      }
    }
    expect(() => new Lost(false).merge()).toThrow("there is no place for gone.weight, gone.bias");
  });
});
