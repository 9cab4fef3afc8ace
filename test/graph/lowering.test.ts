import { describe, expect, test } from "vitest";
import {
  add,
  batchNormTrain,
  constant,
  conv2d,
  crossEntropy,
  exp,
  gelu,
  grad,
  inLayer,
  input,
  lower,
  mul,
  type ParameterRef,
  parameter,
  reduceSum,
  relu,
  reshape,
  type Target,
  targets,
  type Value,
} from "../../src/graph/index.ts";
import type { OnnxModel, OnnxNode } from "../../src/onnx/index.ts";
import { sizeOf, Tensor } from "../../src/tensor/index.ts";
import { smallStep } from "../runtime/small-step.ts";
import { program, refOf } from "./harness.ts";

/** The model of a training step, as compileStep lowers it. */
function lowerStep(target: Target, options: Parameters<typeof smallStep>[0] = {}): OnnxModel {
  const { graph } = smallStep(options);
  const next = [...graph.next].map(([ref, value]) => [`next:${graph.names.get(ref)}`, value] as const);
  const outputs = { ...graph.outputs, ...Object.fromEntries(next) };
  return lower({ outputs }, { target, names: graph.names, valueInfo: true }).model;
}

const ofType = (model: OnnxModel, opType: string): OnnxNode[] => model.nodes.filter((n) => n.opType === opType);
const shapesOf = (model: OnnxModel): Map<string, readonly unknown[]> =>
  new Map([
    ...[...model.initializers].map(([name, t]) => [name, t.shape] as const),
    ...[...model.inputs, ...model.outputs, ...(model.valueInfo ?? [])].map((v) => [v.name, v.shape!] as const),
  ]);

const trainingTargets = [
  { name: "CPU", target: targets.cpuTraining },
  { name: "WebGPU", target: targets.webgpuTraining },
];

describe("training batch norms own the statistics inputs that the kernel overwrites", () => {
  /** Every training batch norm's inputs 3 and 4 are computed for it alone. */
  const mustBePrivate = (model: OnnxModel): void => {
    const norms = ofType(model, "BatchNormalization").filter((n) => n.attrs.training_mode === 1);
    const statistics = norms.flatMap((n) => n.inputs.slice(3));
    expect(statistics.length).toBeGreaterThan(0);
    expect(new Set(statistics).size).toBe(statistics.length);
    const makers = new Map(model.nodes.flatMap((n) => n.outputs.map((name) => [name, n] as const)));
    for (const name of statistics) {
      expect(model.nodes.flatMap((n) => n.inputs).filter((i) => i === name)).toHaveLength(1);
      expect(makers.get(name)?.opType).toBe("Mul");
    }
    // Nor may ONNX Runtime find two of them equal and merge them.
    const formulas = model.nodes.filter((n) => n.opType === "Mul").map((n) => n.inputs.join(" * "));
    for (const name of statistics)
      expect(formulas.filter((f) => f === makers.get(name)!.inputs.join(" * "))).toHaveLength(1);
  };

  test("in a step where one module is used twice", () => {
    // Norms of fewer samples do not use the kernel.
    const model = lowerStep(targets.cpuTraining, { batch: 32 });
    expect(ofType(model, "BatchNormalization").filter((n) => n.attrs.training_mode === 1)).toHaveLength(3);
    mustBePrivate(model);
  });

  test("beside products with the same vectors, such as a weight decay", async () => {
    const x = Tensor.float32(
      [2, 1, 32, 32],
      Array.from({ length: 2048 }, (_, i) => i % 9),
    );
    const refs = [refOf(Tensor.float32([1], [1.5])), refOf(Tensor.float32([1], [0.25]))];
    const [weight, bias] = refs.map(parameter);
    const { y } = batchNormTrain(input("x", x.shape), weight, bias);
    const factors = Array.from({ length: 40 }, (_, i) => [1e-3, 1e-4, 1e-5, 1e-2][i % 4] * (1 + Math.floor(i / 4)));
    const decays = factors.flatMap((f, i) => [
      [`weight${i}`, mul(weight, f)] as const,
      [`bias${i}`, mul(bias, f)] as const,
    ]);
    const names = new Map(refs.map((ref, i) => [ref, `p${i}`]));
    const { model } = lower({ outputs: { y, ...Object.fromEntries(decays) } }, { target: targets.cpuTraining, names });
    mustBePrivate(model);
    await using compiled = await program(model);
    const results = await compiled.run({ x, p0: refs[0].source().readSync(), p1: refs[1].source().readSync() });
    for (const [i, f] of factors.entries()) {
      expect(results[`weight${i}`].data[0]).toBeCloseTo(1.5 * f, 6);
      expect(results[`bias${i}`].data[0]).toBeCloseTo(0.25 * f, 6);
    }
  });
});

describe.each(trainingTargets)("a training step for $name", ({ target }) => {
  const model = lowerStep(target);
  const { graph } = smallStep();

  test("takes and returns parameters and state as vectors", () => {
    const names = new Set(graph.names.values());
    const inputs = model.inputs.filter(({ name }) => names.has(name));
    const outputs = model.outputs.filter(({ name }) => name.startsWith("next:"));
    expect(inputs.map((i) => i.name).sort()).toEqual([...names].sort());
    expect(outputs).toHaveLength(graph.next.size);
    expect([...inputs, ...outputs].filter(({ shape }) => shape!.length !== 1)).toEqual([]);
  });

  test("has no rank-0 operand beside a larger one", () => {
    const shapes = shapesOf(model);
    const elementwise = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Where", "Greater", "GreaterOrEqual"];
    const offenders = model.nodes
      .filter((n) => elementwise.includes(n.opType))
      .filter((n) => {
        const operands = n.inputs.map((name) => shapes.get(name) as number[]);
        return operands.some((s) => s.length === 0) && operands.some((s) => sizeOf(s) > 1);
      });
    expect(offenders).toEqual([]);
  });

  test("has no dead nodes", () => {
    const used = new Set([...model.nodes.flatMap((n) => n.inputs), ...model.outputs.map((o) => o.name)]);
    expect(model.nodes.filter((n) => !n.outputs.some((name) => used.has(name)))).toEqual([]);
    expect([...model.initializers.keys()].filter((name) => !used.has(name))).toEqual([]);
  });

  test("writes equal nodes once", () => {
    const formulas = model.nodes
      .filter((n) => !n.attrs.training_mode)
      .map((n) => JSON.stringify([n.opType, n.inputs, n.attrs]));
    expect(formulas.filter((f, i) => formulas.indexOf(f) !== i)).toEqual([]);
  });

  test("names nodes after the layer that made them", () => {
    const x = input("x", [2, 3]);
    const y = inLayer("stage1.0", () => exp(x));
    expect(lower({ outputs: { y } }, { target }).model.nodes.map((n) => n.name)).toEqual(["stage1.0/Exp_0"]);
  });
});

test("what no output needs is not written", () => {
  const x = input("x", [2, 3]);
  const unused = exp(gelu(x));
  expect(unused.shape).toEqual([2, 3]);
  const { model } = lower({ outputs: { y: relu(x) } }, { target: targets.inference });
  expect(model.nodes.map((n) => n.opType)).toEqual(["Relu"]);
});

test("the same function of the same values is written once", () => {
  const x = input("x", [2, 3]);
  const { model } = lower({ outputs: { y: mul(exp(x), exp(x)), z: exp(x) } }, { target: targets.inference });
  expect(model.nodes.map((n) => n.opType)).toEqual(["Exp", "Mul"]);
});

test("an output that is an input, a constant or another output has a tensor of its own", async () => {
  const x = input("x", [2]);
  const y = exp(x);
  const outputs = { same: x, first: y, second: y, fixed: constant(Tensor.float32([1], [4])) };
  await using compiled = await program(lower({ outputs }, { target: targets.inference }).model);
  const results = await compiled.run({ x: Tensor.float32([2], [0, 1]) });
  expect(Object.fromEntries(Object.entries(results).map(([k, t]) => [k, [...t.data]]))).toEqual({
    same: [0, 1],
    first: [1, Math.fround(Math.E)],
    second: [1, Math.fround(Math.E)],
    fixed: [4],
  });
});

test("names that look like the writer's own do not collide", async () => {
  const refs = ["const_0", "const_1", "Exp_2", "Mul_3", "Add_0", "Reshape_1"].map(
    (name) => [refOf(Tensor.float32([2], [name.length, 1])), name] as const,
  );
  const total = (x: Value): Value => refs.reduce((sum, [ref]) => add(mul(exp(sum), 0.1), parameter(ref)), x);
  const y = total(input("Exp_0", [2]));
  const model = (target: Target) =>
    lower({ outputs: { Mul_1: y } }, { target, names: new Map<ParameterRef, string>(refs) }).model;
  await using inference = await program(model(targets.inference));
  await using training = await program(model(targets.cpuTraining));
  const x = { Exp_0: Tensor.float32([2], [0.5, -1]) };
  const parameters = Object.fromEntries(refs.map(([ref, name]) => [name, ref.source().readSync()]));
  const expected = refs.reduce<number[]>(
    (sum, [, name]) => sum.map((v, i) => Math.exp(v) * 0.1 + (i ? 1 : name.length)),
    [0.5, -1],
  );
  for (const results of [await inference.run(x), await training.run({ ...x, ...parameters })])
    for (const [i, v] of expected.entries()) expect(results.Mul_1.data[i]).toBeCloseTo(v, 2);
});

test("a parameter used by two layers is one tensor", () => {
  const ref = refOf(
    Tensor.float32(
      [3, 3, 1, 1],
      Array.from({ length: 9 }, (_, i) => i),
    ),
  );
  const x = input("x", [2, 3, 5, 7]);
  const y = conv2d(conv2d(x, parameter(ref)), parameter(ref));
  const names = new Map([[ref, "w"]]);
  const training = lower({ outputs: { y } }, { target: targets.cpuTraining, names });
  expect(training.model.inputs.map((i) => i.name)).toEqual(["x", "w"]);
  expect([...lower({ outputs: { y } }, { target: targets.inference, names }).model.initializers.keys()]).toEqual(["w"]);
});

test("gradients pass no integers and stop where nothing depends on a parameter", () => {
  const x = input("x", [2, 3]);
  const unrelated = input("u", [4]);
  const labels = input("t", [2], "int64");
  const [dx, du] = grad(crossEntropy(x, labels), [x, unrelated]);
  expect(dx.shape).toEqual([2, 3]);
  expect(du.shape).toEqual([4]);
  expect(lower({ outputs: { du } }, { target: targets.inference }).model.inputs).toEqual([]);
  expect(grad(reduceSum(reshape(x, [-1])), [x])[0].shape).toEqual([2, 3]);
});

describe("names that would overwrite each other are refused", () => {
  const x = input("x", [2]);
  const [a, b] = [1, 2].map((v) => refOf(Tensor.float32([2], [v, v])));
  const lowerSum =
    (y: Value, names: readonly (readonly [ParameterRef, string])[], output = "y") =>
    () =>
      lower({ outputs: { [output]: y } }, { target: targets.cpuTraining, names: new Map(names) });

  test("two parameters", () => {
    const y = add(parameter(a), parameter(b));
    expect(
      lowerSum(y, [
        [a, "w"],
        [b, "w"],
      ]),
    ).toThrowErrorMatchingInlineSnapshot(`[RepmlpError: lower: two inputs or parameters are named w. Rename one.]`);
  });
  test("two inputs", () => {
    expect(lowerSum(add(x, input("x", [2])), [])).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: lower: two inputs or parameters are named x. Rename one.]`,
    );
  });
  test("an input and a parameter", () => {
    expect(lowerSum(add(x, parameter(a)), [[a, "x"]])).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: lower: two inputs or parameters are named x. Rename one.]`,
    );
  });
  test("an output and an input", () => {
    expect(lowerSum(exp(x), [], "x")).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: lower: output x has the name of an input or parameter. Rename one.]`,
    );
  });
});

test("a training step of a depthwise convolution takes as many nodes for 31×31 as for 9×9", () => {
  const nodesOf = (kernel: number, target: Target): number => {
    const x = input("x", [2, 3, 28, 28]);
    const w = input("w", [3, 1, kernel, kernel]);
    const y = conv2d(x, w, { padding: (kernel - 1) / 2, groups: 3 });
    const [dx, dw] = grad(reduceSum(mul(y, y)), [x, w]);
    return lower({ outputs: { y, dx, dw } }, { target, names: new Map() }).model.nodes.length;
  };
  for (const { target } of trainingTargets) {
    expect(nodesOf(31, target)).toBe(nodesOf(9, target));
    expect(nodesOf(31, target)).toBeLessThan(40);
  }
});
