import { fmt, must, RepmlpError } from "../errors.ts";
import type { DType, Shape, TensorSource } from "../tensor/index.ts";
import type { Layout } from "./layout.ts";
import { type Node, type Op, type OpDef, type ParameterRef, type TensorType, Value } from "./op.ts";
import { currentPath, inLayer } from "./path.ts";

export { type Node, type Op, type OpDef, type ParameterRef, type TensorType, Value, type VjpArgs } from "./op.ts";

const table = new Map<string, OpDef>();

/** Every op that has been defined, by name: the table that the generic tests walk. */
export const opTable: ReadonlyMap<string, OpDef> = table;

let nextId = 0;

/** Declares an op: one object with its shape rule, gradient and lowering side by side. */
export function defineOp<A>(def: OpDef<A>): Op<A> {
  must(!table.has(def.name), "internal/op", () => `internal: op ${def.name} is defined twice`, "model");
  const erased = def as unknown as OpDef;
  table.set(def.name, erased);
  const all = (inputs: readonly Value[], attrs: A): readonly Value[] => {
    const types = namingLayer(def.name, () =>
      def.infer(
        inputs.map((v) => v.type),
        attrs,
      ),
    );
    return makeNode(erased, inputs, attrs, "shape" in types ? [types] : types);
  };
  const apply = (inputs: readonly Value[], attrs: A): Value => all(inputs, attrs)[0];
  // Object.assign cannot set `name` of a function, which is not writable.
  for (const [key, value] of Object.entries({ ...def, all })) Object.defineProperty(apply, key, { value });
  return apply as Op<A>;
}

/** Runs a shape rule; what it throws also names the layer that is being traced. */
function namingLayer<T>(op: string, rule: () => T): T {
  try {
    return rule();
  } catch (cause) {
    const path = currentPath();
    if (!path || !(cause instanceof RepmlpError) || !cause.message.startsWith(`${op}: `)) throw cause;
    throw new RepmlpError(cause.code, `${op} (layer ${path}): ${cause.message.slice(op.length + 2)}`, cause.kind, {
      cause,
    });
  }
}

/** Adds a node; ops are applied through what {@link defineOp} returns. */
function makeNode(op: OpDef, inputs: readonly Value[], attrs: unknown, types: readonly TensorType[]): readonly Value[] {
  const outputs: Value[] = [];
  const node: Node = { op, inputs, attrs, outputs, path: currentPath(), id: nextId++ };
  for (const [index, type] of types.entries()) outputs.push(new Value(node, index, type));
  return outputs;
}

/** How a {@link random} leaf is filled by the host, once per run. */
export interface RandomSpec {
  readonly distribution: "bernoulli" | "uniform";
  /** Probability of a one, for `bernoulli`. */
  readonly p?: number;
}

interface LeafAttrs {
  readonly type: TensorType;
}

const leaf = <A extends LeafAttrs>(name: string): Op<A> =>
  defineOp<A>({
    name,
    inputs: [],
    infer: (_, { type }) => type,
    vjp: () => [],
    lower: (lowering, node) => lowering.leaf(node),
  });

const inputOp = leaf<LeafAttrs & { readonly name: string; readonly layout?: Layout | undefined }>("input");
const parameterOp = leaf<LeafAttrs & { readonly ref: ParameterRef }>("parameter");
const constantOp = leaf<LeafAttrs & { readonly source: TensorSource }>("constant");
const randomOp = leaf<LeafAttrs & { readonly spec: RandomSpec }>("random");

/**
 * A named input of the graph.
 *
 * @param layout  how what is fed lies; its shape is then that of the layout
 */
export const input = (name: string, shape: Shape, dtype: DType = "float32", layout?: Layout): Value =>
  inputOp([], { name, type: { dtype, shape }, layout });

/** A parameter or buffer as a value; an input of training graphs, a constant of inference graphs. */
export const parameter = (ref: ParameterRef): Value =>
  parameterOp([], { ref, type: { dtype: ref.dtype, shape: ref.shape } });

/** A constant tensor. */
export const constant = (source: TensorSource): Value =>
  constantOp([], { source, type: { dtype: source.dtype, shape: source.shape } });

/** Fresh random numbers on every run, drawn on the host from the run's seed and the node's layer path. */
export const random = (spec: RandomSpec, shape: Shape, dtype: DType = "float32"): Value =>
  randomOp([], { spec, type: { dtype, shape } });

/** The leaf attributes of a value, when it is that kind of leaf. */
export const asInput = (v: Value): { readonly name: string; readonly layout?: Layout | undefined } | undefined =>
  attrsIf(v, inputOp);
export const asParameter = (v: Value): { readonly ref: ParameterRef } | undefined => attrsIf(v, parameterOp);
export const asConstant = (v: Value): { readonly source: TensorSource } | undefined => attrsIf(v, constantOp);
export const asRandom = (v: Value): { readonly spec: RandomSpec } | undefined => attrsIf(v, randomOp);

/** The attributes of the node that made `v` if it is an application of `op`. */
export function attrsIf<A>(v: Value, op: Op<A>): A | undefined {
  return v.node.op.name === op.name ? (v.node.attrs as A) : undefined;
}

/** Where a node stands, for messages: `conv2d (stage1.0.conv1)`. */
export const where = (node: Pick<Node, "op" | "path">): string =>
  node.path ? `${node.op.name} (layer ${node.path})` : node.op.name;

/** Every node that `outputs` depend on, inputs before users. */
export function reachable(outputs: Iterable<Value>): Node[] {
  const seen = new Set<Node>();
  const stack = [...outputs].map((v) => v.node);
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    for (const v of node.inputs) stack.push(v.node);
  }
  return [...seen].sort((a, b) => a.id - b.id);
}

/** Rebuilds what `outputs` depend on with some values replaced; untouched parts are shared. */
export function substitute(outputs: readonly Value[], replacements: ReadonlyMap<Value, Value>): Value[] {
  const rebuilt = new Map<Value, Value>(replacements);
  const get = (v: Value): Value => rebuilt.get(v) ?? v;
  for (const node of reachable(outputs)) {
    const inputs = node.inputs.map(get);
    if (inputs.every((v, i) => v === node.inputs[i])) continue;
    const made = remade(node, inputs);
    for (const [i, v] of node.outputs.entries()) if (!rebuilt.has(v)) rebuilt.set(v, made[i]);
  }
  return outputs.map(get);
}

/**
 * Rebuilds what `outputs` depend on, from the leaves up: `change` is given every value as it is made of what has changed
 * before, with the value that it was, and says what takes its place. Untouched parts are shared; nodes keep their layers.
 */
export function rewrite(outputs: readonly Value[], change: (made: Value, original: Value) => Value): Value[] {
  const rebuilt = new Map<Value, Value>();
  const get = (v: Value): Value => rebuilt.get(v) ?? v;
  for (const node of reachable(outputs))
    inLayer(node.path, () => {
      const inputs = node.inputs.map(get);
      const same = inputs.every((v, i) => v === node.inputs[i]);
      const made = same ? node.outputs : remade(node, inputs);
      for (const [i, v] of node.outputs.entries()) rebuilt.set(v, change(made[i], v));
    });
  return outputs.map(get);
}

/** The node with other inputs. */
function remade(node: Node, inputs: readonly Value[]): readonly Value[] {
  const types = node.op.infer(
    inputs.map((v) => v.type),
    node.attrs as never,
  );
  return makeNode(node.op, inputs, node.attrs, "shape" in types ? [types] : types);
}

/** Checks that a type has one of the given ranks. */
export function mustRank(op: string, name: string, type: TensorType, ...ranks: number[]): void {
  must(
    ranks.includes(type.shape.length),
    `${op}/rank`,
    () => `${op}: ${name} must have rank ${ranks.join(" or ")}, got shape ${fmt(type.shape)}`,
  );
}
