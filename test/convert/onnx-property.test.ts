import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { countOnnx } from "../../src/convert/onnx/counts.ts";
import { mergeOnnx } from "../../src/convert/onnx/index.ts";
import { Comparison } from "../../src/inference/index.ts";
import { intsAttr, type OnnxDim, type OnnxModel, type OnnxNode } from "../../src/onnx/index.ts";
import { permutation, rng, sizeOf, Tensor } from "../../src/tensor/index.ts";
import { interpret } from "./onnx-interpreter.ts";
import { Builder } from "./onnx-models.ts";
import { inFloat64, PATTERNS, randomNetwork } from "./onnx-random.ts";

const runs = { numRuns: 120, seed: 1 };

/** How much of the input's sizes the file may say. */
const shapes: readonly (readonly OnnxDim[])[] = [
  [1, 4, 6, 5],
  ["n", 4, "h", "w"],
  [1, 4, 6, "w"],
];

/** A network of up to five patterns, with or without fully connected layers at the end. */
const networks = fc
  .record({
    seed: fc.nat(1e6),
    patterns: fc.array(fc.nat(PATTERNS - 1), { minLength: 1, maxLength: 5 }),
    head: fc.boolean(),
    shape: fc.constantFrom(...shapes),
  })
  .map(({ seed, patterns, head, shape }) => {
    const model = randomNetwork(seed, patterns, head);
    return { seed, model: { ...model, inputs: [{ ...model.inputs[0], shape }] } };
  });

function feedsOf(): { readonly x: Tensor } {
  const random = rng(3, "feeds");
  const sizes = shapes[0] as readonly number[];
  return {
    x: Tensor.of(
      "float64",
      sizes,
      Float64Array.from({ length: sizeOf(sizes) }, () => random.normal()),
    ),
  };
}

/** Largest difference of all outputs in float64, by their largest value. */
function difference(a: OnnxModel, b: OnnxModel): number {
  const [first, second] = [a, b].map((model) => interpret(model, feedsOf()));
  return Math.max(
    ...a.outputs.map(({ name }) => {
      const [p, q] = [first.get(name)!, second.get(name)!];
      expect(q.shape).toEqual(p.shape);
      return new Comparison().add(p.toFloat64(), q.toFloat64()).maxRel;
    }),
  );
}

/** Multiply-adds of a model, those of poolings and of scales and shifts among them. */
function work(model: OnnxModel): number {
  const values = interpret(model, feedsOf());
  const others = model.nodes.map((node) => {
    const size = values.get(node.outputs[0])!.size;
    if (node.opType === "AveragePool") return size * sizeOf(intsAttr(node, "kernel_shape"));
    return /^(Add|Sub|Mul|Div|BatchNormalization)$/.test(node.opType) ? size : 0;
  });
  const sums = model.nodes.map((node) =>
    node.opType === "Sum" ? (node.inputs.length - 1) * values.get(node.outputs[0])!.size : 0,
  );
  return (
    countOnnx(model, { x: shapes[0] as readonly number[] }).multiplyAdds! +
    [...others, ...sums].reduce((a, b) => a + b, 0)
  );
}

const output = (name: string) => ({ name, dtype: "float64" as const });

describe("random networks of the rules' patterns", () => {
  let merges = 0;

  it("compute the same in float64, with fewer nodes and no more work", () => {
    fc.assert(
      fc.property(networks, ({ model }) => {
        const { model: merged, merges: made } = mergeOnnx(model);
        merges += made.length;
        expect(difference(model, merged)).toBeLessThan(1e-11);
        expect(merged.nodes.length).toBeLessThanOrEqual(model.nodes.length - made.length);
        expect(work(merged)).toBeLessThanOrEqual(work(model));
      }),
      runs,
    );
    // They are no networks in which there is nothing to merge.
    expect(merges).toBeGreaterThan(runs.numRuns);
  });

  it("are merged completely at once, in whatever order their nodes stand", () => {
    fc.assert(
      fc.property(networks, ({ model, seed }) => {
        const { model: merged } = mergeOnnx(model);
        expect(mergeOnnx(merged).merges).toEqual([]);
        const nodes = [...permutation(model.nodes.length, rng(seed, "order"))].map((i) => model.nodes[i]);
        const other = mergeOnnx({ ...model, nodes }).model;
        const described = (m: OnnxModel) =>
          new Set(m.nodes.map((n) => JSON.stringify([n.name, n.opType, n.inputs, n.outputs])));
        expect(described(other)).toEqual(described(merged));
        for (const [name, t] of merged.initializers)
          expect(other.initializers.get(name)!.readSync()).toEqual(t.readSync());
      }),
      runs,
    );
  });

  it("stay untouched where every value is an output", () => {
    fc.assert(
      fc.property(networks, ({ model }) => {
        const outputs = model.nodes.map((n) => output(n.outputs[0]));
        const { model: merged, merges: made } = mergeOnnx({ ...model, outputs });
        expect(made).toEqual([]);
        expect(merged.nodes).toEqual(model.nodes);
        expect([...merged.initializers]).toEqual([...model.initializers]);
      }),
      runs,
    );
  });

  it("stay untouched where somebody else reads every value", () => {
    fc.assert(
      fc.property(networks, ({ model }) => {
        const readers = model.nodes.map(({ outputs: [name] }): OnnxNode => {
          return { opType: "Relu", name: `reads ${name}`, inputs: [name], outputs: [`${name}.read`], attrs: {} };
        });
        const nodes = [...model.nodes, ...readers];
        const outputs = readers.map((n) => output(n.outputs[0]));
        const { model: merged, merges: made } = mergeOnnx({ ...model, nodes, outputs });
        expect(made).toEqual([]);
        expect(merged.nodes).toEqual(nodes);
      }),
      runs,
    );
  });

  it("keep any one value that is an output, or that somebody else reads", () => {
    fc.assert(
      fc.property(networks, fc.nat(), fc.boolean(), ({ model }, which, isOutput) => {
        const inner = model.nodes[which % model.nodes.length].outputs[0];
        const reader = { opType: "Relu", name: "other", inputs: [inner], outputs: ["other"], attrs: {} };
        const shown = isOutput
          ? { ...model, outputs: [...model.outputs, output(inner)] }
          : { ...model, nodes: [...model.nodes, reader], outputs: [...model.outputs, output("other")] };
        const { model: merged } = mergeOnnx(shown);
        expect(difference(shown, merged)).toBeLessThan(1e-11);
        expect(merged.nodes.some((n) => n.outputs[0] === inner)).toBe(true);
      }),
      runs,
    );
  });
});

describe("a shift before a convolution", () => {
  const shifts = fc.record({
    seed: fc.nat(1e6),
    kernel: fc.integer({ min: 1, max: 3 }),
    pad: fc.integer({ min: 0, max: 1 }),
  });

  it("goes into it without padding only", () => {
    fc.assert(
      fc.property(shifts, ({ seed, kernel, pad }) => {
        const b = new Builder(seed, [1, 4, 6, 5]);
        const pads = [pad, 0, 0, pad];
        const model = inFloat64(b.model([b.conv(b.norm("x", 4), [4, 4], [kernel, kernel], { pads })]));
        const { model: merged, merges } = mergeOnnx(model);
        expect(merges).toHaveLength(pad ? 0 : 1);
        if (pad) expect(merged.nodes).toEqual(model.nodes);
        expect(difference(model, merged)).toBeLessThan(1e-11);
      }),
      { ...runs, numRuns: 40 },
    );
  });
});
