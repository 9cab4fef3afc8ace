import type { Outcome } from "../../scripts/fuzz-report.ts";
import { mergeOnnx } from "../../src/convert/onnx/index.ts";
import { RepmlpError } from "../../src/errors.ts";
import { type AttributeValue, decodeOnnx, encodeOnnx, type OnnxModel, type OnnxNode } from "../../src/onnx/index.ts";
import { type Rng, rng, sizeOf, Tensor } from "../../src/tensor/index.ts";
import { mutated } from "../checkpoint/fuzzing.ts";
import { Builder } from "./onnx-models.ts";
import { merging } from "./onnx-networks.ts";

const extremes = [0, 1, 2, 3, 7, -1, -2, 64, 4096, 65_537, 2 ** 31 - 1, -(2 ** 31), 2 ** 40, -(2 ** 52)];

/** Another wiring, other numbers or other shapes in a model whose framing stays whole. */
function changed(model: OnnxModel, random: Rng): OnnxModel {
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)];
  const nodes = [...model.nodes];
  const initializers = new Map([...model.initializers].map(([name, t]) => [name, t.readSync()]));
  const values = [...nodes.flatMap((n) => [...n.inputs, ...n.outputs]), "x", ""];
  const numbers = (value: AttributeValue): AttributeValue =>
    typeof value === "number"
      ? pick(extremes)
      : Array.isArray(value)
        ? (value as readonly number[]).map((v) => (random.below(2) ? pick(extremes) : Number(v)))
        : value;
  const changes: readonly ((node: OnnxNode) => OnnxNode)[] = [
    (node) => ({ ...node, inputs: node.inputs.map((name) => (random.below(3) ? name : pick(values))) }),
    (node) => ({ ...node, outputs: node.outputs.map((name) => (random.below(3) ? name : pick(values))) }),
    (node) => ({ ...node, opType: pick(nodes).opType }),
    (node) => ({
      ...node,
      attrs: Object.fromEntries(Object.entries(node.attrs).map(([k, v]) => [k, random.below(2) ? v : numbers(v)])),
    }),
  ];
  for (let n = 1 + random.below(3); n > 0; n--) {
    const at = random.below(nodes.length);
    nodes[at] = pick(changes)(nodes[at]);
    const [name, t] = pick([...initializers]);
    const way = random.below(6);
    if (way === 0) initializers.set(name, t.reshape([...t.shape].reverse()));
    else if (way === 1) initializers.set(name, t.reshape([sizeOf(t.shape)]));
    else if (way === 2 && t.dtype === "int64")
      initializers.set(
        name,
        Tensor.of(
          "int64",
          t.shape,
          t.toFloat64().map(() => pick(extremes)),
        ),
      );
    else if (way === 3)
      initializers.set(name, t.map((v) => (random.below(4) ? v : pick([Number.NaN, 0, 1e30]))).cast(t.dtype));
  }
  return { ...model, nodes, initializers };
}

/** Damages, reads, merges and writes; `count` files, the same for the same seed number. */
export function* fuzz(count: number, seed: number): Generator<Outcome, void, void> {
  const models = merging.map(([name, network]) => {
    const b = new Builder();
    const model = b.model([network(b)]);
    return { name, model, bytes: encodeOnnx(model) };
  });
  const random = rng(seed, "fuzz-onnx");
  const pick = () => models[random.below(models.length)];
  for (let i = 0; i < count; i++) {
    const { name, model, bytes: whole } = pick();
    const bytes = random.below(2)
      ? mutated(whole, random, () => pick().bytes)
      : encodedOr(whole, changed, model, random);
    yield { seed: name, bytes, ...outcome(bytes) };
  }
}

/** A change that no file could hold leaves the file as it is. */
function encodedOr(
  whole: Uint8Array<ArrayBuffer>,
  change: typeof changed,
  model: OnnxModel,
  random: Rng,
): Uint8Array<ArrayBuffer> {
  try {
    return encodeOnnx(change(model, random));
  } catch {
    return whole;
  }
}

export function outcome(bytes: Uint8Array<ArrayBuffer>): Omit<Outcome, "seed" | "bytes"> {
  const start = performance.now();
  const took = () => performance.now() - start;
  try {
    encodeOnnx(mergeOnnx(decodeOnnx(bytes, { keep: true })).model);
    return { milliseconds: took() };
  } catch (error) {
    if (error instanceof RepmlpError && (error.kind === "file" || error.kind === "model"))
      return { milliseconds: took(), code: error.code };
    return { milliseconds: took(), crash: error };
  }
}
