import { describe, expect, test } from "vitest";
import { currentPath, input, mul, relu, type Value } from "../../src/graph/index.ts";
import {
  BatchNorm2d,
  Conv2d,
  cloneModule,
  cloneWith,
  countParameters,
  Dropout,
  Linear,
  Module,
  mapModules,
  Parameter,
  parameterNames,
  ReLU,
  Sequential,
  toDtype,
  traceModel,
  withParameters,
  withPaths,
} from "../../src/nn/index.ts";
import { Tensor } from "../../src/tensor/index.ts";

/** Modules in fields, lists and records; one of them in two places. */
class Tree extends Module {
  readonly shared = new Linear(3, 3);
  readonly list = [new Linear(3, 3), this.shared];
  readonly byName = { norm: new Sequential(new ReLU(), new Linear(3, 3)) };
  readonly options = { sizes: [1, 2] };

  forward(x: Value): Value {
    return this.list.reduce((y, layer) => layer.forward(y), this.byName.norm.forward(this.shared.forward(x)));
  }
}

describe("train and eval", () => {
  test("a new module is in training mode", () => {
    expect([...new Tree().modules()].every(([, m]) => m.training)).toBe(true);
  });

  test("reach every module of the tree and return the model", () => {
    const tree = new Tree();
    expect(tree.eval()).toBe(tree);
    expect([...tree.modules()].map(([path, m]) => `${path}:${m.training}`)).toEqual([
      ":false",
      "shared:false",
      "list.0:false",
      "list.1:false",
      "by_name.norm:false",
      "by_name.norm.0:false",
      "by_name.norm.1:false",
    ]);
    expect([...tree.train().modules()].every(([, m]) => m.training)).toBe(true);
  });

  test("can be set on a part: a frozen backbone's statistics", () => {
    const tree = new Tree().train();
    tree.byName.norm.eval();
    expect([tree.training, tree.byName.norm.training, tree.list[0].training]).toEqual([true, false, true]);
  });

  test("decide whether dropout does anything", () => {
    const x = input("x", [2, 3]);
    const dropout = new Dropout(0.5);
    expect(dropout.eval().forward(x)).toBe(x);
    expect(dropout.train().forward(x)).not.toBe(x);
  });
});

describe("parameters", () => {
  test("one in several places is one parameter with several keys", () => {
    const tree = new Tree();
    const keys = [...tree.state()].map(([key]) => key);
    expect(keys).toEqual(expect.arrayContaining(["shared.weight", "list.1.weight"]));
    expect([...tree.parameters()].map(([key]) => key)).toEqual(keys.filter((key) => !key.startsWith("list.1.")));
    expect(parameterNames(tree).get(tree.shared.weight)).toBe("shared.weight");
    expect(countParameters(tree)).toBe(3 * 12);
  });

  test("leave out statistics and what is frozen", () => {
    const norm = new BatchNorm2d(4);
    expect([...norm.parameters()].map(([key]) => key)).toEqual(["weight", "bias"]);
    const frozen = mapModules(new Tree(), { parameter: (p) => p.copy({ trainable: false }) });
    expect([...frozen.parameters()]).toEqual([]);
    expect(countParameters(norm)).toBe(8);
  });

  test("keep their shape and dtype", () => {
    const { weight } = new Linear(2, 1);
    weight.set(Tensor.of("float64", [1, 2], [0.1, 2]));
    expect(weight.data).toEqual(Tensor.float32([1, 2], [0.1, 2]));
    expect(() => weight.set(Tensor.zeros("float32", [2, 1]))).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: parameter: expected shape [1, 2], got [2, 1]]`,
    );
  });
});

describe("copies", () => {
  const storage = (p: Parameter): unknown => p.data.data.buffer;

  test("a clone has modules and parameters of its own, which share values until one gets others", () => {
    const tree = new Tree().initialize();
    const clone = cloneModule(tree);
    const [originals, clones] = [tree, clone].map((t) => new Set([...t.modules()].map(([, m]) => m)));
    expect([...clones].some((m) => originals.has(m))).toBe(false);
    expect(clone.shared.weight).not.toBe(tree.shared.weight);
    expect(storage(clone.shared.weight)).toBe(storage(tree.shared.weight));
    const before = tree.shared.weight.data;
    clone.shared.weight.set(Tensor.zeros("float32", [3, 3]));
    expect(tree.shared.weight.data).toBe(before);
  });

  test("a clone has a mode of its own", () => {
    const tree = new Tree().train();
    cloneModule(tree).eval();
    expect([...tree.modules()].every(([, m]) => m.training)).toBe(true);
  });

  test("what is shared stays shared, in lists and records too", () => {
    const clone = cloneModule(new Tree());
    expect(clone.list[1]).toBe(clone.shared);
    expect(clone.options).toEqual({ sizes: [1, 2] });
    expect(clone).toBeInstanceOf(Tree);
  });

  test("mapModules replaces modules by path or class, and asks for a shared one once", () => {
    const asked: string[] = [];
    const other = new Linear(3, 3);
    const tree = new Tree();
    const changed = mapModules(tree, {
      module: (m, path) => {
        asked.push(path);
        return path === "list.0" ? other : m instanceof ReLU ? new Dropout(0.5) : undefined;
      },
    });
    expect(asked).toEqual(["", "shared", "list.0", "by_name.norm", "by_name.norm.0", "by_name.norm.1"]);
    expect(changed.list[0].weight.shape).toEqual(other.weight.shape);
    expect(changed.byName.norm.layers[0]).toBeInstanceOf(Dropout);
    expect(tree.byName.norm.layers[0]).toBeInstanceOf(ReLU);
  });

  test("cloneWith replaces fields and shares the rest", () => {
    const layer = new Linear(2, 2);
    const made = cloneWith(layer, { bias: undefined });
    expect([made.bias, made.weight]).toEqual([undefined, layer.weight]);
    expect(layer.bias).toBeDefined();
  });

  test("toDtype changes floating values only", () => {
    const half = toDtype(new BatchNorm2d(2).initialize(), "float16");
    expect([...half.state()].map(([key, p]) => `${key} ${p.dtype} ${p.data.dtype}`)).toEqual([
      "weight float16 float16",
      "bias float16 float16",
      "running_mean float16 float16",
      "running_var float16 float16",
      "num_batches_tracked int64 int64",
    ]);
  });
});

describe("withPaths", () => {
  class Where extends Module {
    seen: string[] = [];
    forward(x: Value): Value {
      this.seen.push(currentPath());
      return x;
    }
  }
  class Outer extends Module {
    readonly inner = new Where();
    readonly again = [new Where()];
    forward(x: Value): Value {
      return this.again[0].forward(this.inner.forward(x));
    }
  }

  test("every layer knows its path while the body runs, and is as before afterwards", () => {
    const outer = new Outer();
    const before = Object.getOwnPropertyNames(outer.inner);
    const outputs: string[] = [];
    withPaths(
      outer,
      () => outer.forward(input("x", [1])),
      (path) => outputs.push(path),
    );
    expect([outer.inner.seen, outer.again[0].seen]).toEqual([["inner"], ["again.0"]]);
    expect(outputs).toEqual(["inner", "again.0", ""]);
    expect(Object.getOwnPropertyNames(outer.inner)).toEqual(before);
    expect(currentPath()).toBe("");
  });

  test("restores forward also when the body or a forward throws", () => {
    class Failing extends Module {
      forward(_: Value): Value {
        throw new Error("no");
      }
    }
    class Host extends Module {
      readonly inner = new Failing();
      forward(x: Value): Value {
        return this.inner.forward(x);
      }
    }
    const host = new Host();
    expect(() => withPaths(host, () => host.forward(input("x", [1])))).toThrow("no");
    expect([Object.hasOwn(host, "forward"), Object.hasOwn(host.inner, "forward")]).toEqual([false, false]);
    expect(currentPath()).toBe("");
    expect(() =>
      withPaths(host, () => {
        throw new Error("body");
      }),
    ).toThrow("body");
    expect(Object.hasOwn(host, "forward")).toBe(false);
  });

  test("restores a forward that was an instance's own", () => {
    const host = new Where();
    const own = (x: Value): Value => relu(x);
    host.forward = own;
    withPaths(host, () => host.forward(input("x", [1])));
    expect(host.forward).toBe(own);
    expect(Object.keys(host)).toContain("forward");
  });

  test("nodes carry the path of the layer that made them", () => {
    class Stack extends Module {
      readonly body = new Sequential(new Conv2d(1, 1, { kernelSize: 1, bias: false }));
      forward(x: Value): Value {
        return this.body.forward(x);
      }
    }
    const { output, layers } = traceModel(new Stack(), [1, 1, 2, 2]);
    expect(output.node.path).toBe("body.0");
    expect([...layers.keys()]).toEqual(["body.0", "body", ""]);
  });
});

describe("parameters that the model cannot know of are an error", () => {
  const layer = (): Linear => new Linear(3, 3).initialize();
  class Private extends Module {
    readonly #hidden = layer();
    forward(x: Value): Value {
      return this.#hidden.forward(x);
    }
  }
  class InMap extends Module {
    readonly layers = new Map([["a", layer()]]);
    forward(x: Value): Value {
      return this.layers.get("a")!.forward(x);
    }
  }
  class Loose extends Module {
    forward(x: Value): Value {
      return mul(x, new Parameter([3], { init: () => [1, 1, 1] }).value);
    }
  }
  test.for([
    { name: "private field", model: new Private() },
    { name: "Map", model: new InMap() },
    { name: "made in forward", model: new Loose() },
  ])("$name", ({ model }) => {
    expect(() => traceModel(model, [2, 3])).toThrow("is a parameter that is not part of the model");
  });

  test("an arrow function as forward still uses the original's layers in a copy", () => {
    class Arrow extends Module {
      readonly layer = layer();
      forward = (x: Value): Value => this.layer.forward(x);
    }
    const model = new Arrow();
    expect(traceModel(model, [2, 3]).output.shape).toEqual([2, 3]);
    expect(() => traceModel(cloneModule(model), [2, 3])).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: trace: weight [3, 3] of linear is a parameter that is not part of the model. Keep it in a field (lists and records of layers count), and write forward as a method: an arrow function in a field goes on using the original's layers after a copy.]`,
    );
  });
});

describe("withParameters", () => {
  const zeros = (shape: readonly number[]): Parameter => Parameter.from(Tensor.zeros("float32", shape));

  test("replaces parameters by key, wherever they stand, and shares the rest", () => {
    const tree = new Tree();
    const [a, b] = [zeros([3, 3]), zeros([3])];
    const changed = withParameters(
      tree,
      new Map([
        ["list.0.weight", a],
        ["by_name.norm.1.bias", b],
      ]),
    );
    const [before, after] = [tree, changed].map((t) => new Map(t.state()));
    expect([...after.keys()]).toEqual([...before.keys()]);
    for (const [key, p] of after)
      expect(p, key).toBe({ "list.0.weight": a, "by_name.norm.1.bias": b }[key] ?? before.get(key));
    expect(changed.shared).toBe(tree.shared);
    expect(tree.list[0].weight).not.toBe(a);
  });

  test("fills a field that may hold one", () => {
    const layer = new Linear(3, 2, { bias: false });
    const bias = zeros([2]);
    expect(withParameters(layer, new Map([["bias", bias]])).bias).toBe(bias);
    expect(layer.bias).toBeUndefined();
  });

  test("names keys that have no place", () => {
    const changes = new Map(["shared.weight", "shared.gain", "list.7.bias"].map((key) => [key, zeros([3])]));
    expect(() => withParameters(new Tree(), changes)).toThrow(
      "state dict: there is no place for shared.gain, list.7.bias. Check the names of the fields.",
    );
  });
});
