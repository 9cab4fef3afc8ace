import { fmt, listed, must } from "../errors.ts";
import { isFloating, sameShape, Tensor } from "../tensor/index.ts";
import { add } from "./ops/elementwise.ts";
import { type PartOf, Recomputation } from "./recompute.ts";
import { constant, type Node, reachable, type Value, where } from "./value.ts";

/** Where a gradient ends before it reaches what lies behind. */
export interface GradientStop {
  readonly node: Node;
  /** `missing`: the op has no gradient; `zero`: its derivative is zero almost everywhere (rounding, comparing). */
  readonly why: "missing" | "zero";
}

interface Backward {
  readonly cotangents: ReadonlyMap<Value, Value>;
  readonly stops: readonly GradientStop[];
}

/** One walk from the output to `wrt`; an op without a gradient ends it. */
function backward(output: Value, wrt: readonly Value[], cotangent: Value, recompute: PartOf = keepAll): Backward {
  const nodes = reachable([output]);
  const forward = new Recomputation(nodes, recompute);
  const wanted = new Set(wrt.map((v) => v.node));
  const active = new Set<unknown>();
  for (const node of nodes) if (wanted.has(node) || node.inputs.some((v) => active.has(v.node))) active.add(node);

  const cotangents = new Map<Value, Value>([[output, cotangent]]);
  const stops: GradientStop[] = [];
  for (const node of nodes.reverse()) {
    if (!active.has(node) || !node.inputs.length) continue;
    const grads = node.outputs.map((v) => cotangents.get(v));
    const dy = grads.find((g) => g !== undefined);
    if (!dy || !node.inputs.some((v) => active.has(v.node))) continue;
    if (!node.op.vjp) {
      stops.push({ node, why: "missing" });
      continue;
    }
    forward.meet(node, dy);
    const [inputs, outputs] = [node.inputs, node.outputs].map((list) => list.map((v) => forward.read(v, node)));
    const back = node.op.vjp({ inputs, outputs, attrs: node.attrs as never, grads, dy });
    let flows = false;
    for (const [i, v] of node.inputs.entries()) {
      const g = back[i];
      if (!g || !active.has(v.node) || !isFloating(v.dtype)) continue;
      must(
        sameShape(g.shape, v.shape),
        "internal/vjp",
        () =>
          `internal: the gradient of ${where(node)} for ${node.op.inputs[i]} has shape ${fmt(g.shape)}, not ${fmt(v.shape)}`,
      );
      const sofar = cotangents.get(v);
      cotangents.set(v, sofar ? add(sofar, g) : g);
      flows = true;
    }
    if (!flows) stops.push({ node, why: "zero" });
  }
  return { cotangents, stops };
}

const keepAll: PartOf = () => undefined;

export interface GradOptions {
  /**
   * Parts of the network whose inner values the backward pass computes anew instead of keeping them: less memory for one
   * more forward pass. Default none. Only targets for training on the CPU do it; the others keep everything.
   */
  readonly recompute?: PartOf;
}

/**
 * Reverse-mode gradient as a function from graph to graph: the cotangents of `wrt` for the scalar (or, with
 * `cotangent`, the inner product of) `output`. The result consists of ordinary ops and can be differentiated again.
 *
 * @returns one value per entry of `wrt`, of its shape; zeros where the output does not depend on it
 * @throws `grad/missing` when ops on the way have no gradient, naming each with its layer
 */
export function grad(
  output: Value,
  wrt: readonly Value[],
  cotangent?: Value,
  { recompute }: GradOptions = {},
): Value[] {
  must(
    cotangent ? sameShape(cotangent.shape, output.shape) : output.shape.every((d) => d === 1),
    "grad/scalar",
    () =>
      `grad: the output has shape ${fmt(output.shape)}. Reduce it to one number, or pass a cotangent of that shape.`,
  );
  const { cotangents, stops } = backward(output, wrt, cotangent ?? ones(output), recompute);
  const missing = stops.flatMap(({ node, why }) => (why === "missing" ? [where(node)] : []));
  must(
    !missing.length,
    "grad/missing",
    () =>
      `grad: ${listed(missing)} ${missing.length > 1 ? "have" : "has"} no gradient. Use another op there, or leave its inputs out of the parameters to train.`,
    "model",
  );
  return wrt.map((v) => cotangents.get(v) ?? constant(Tensor.zeros(v.dtype, v.shape)));
}

const ones = ({ dtype, shape }: Value): Value => constant(Tensor.full(dtype, shape, 1));

/** What of `wrt` a gradient of `output` reaches. */
export interface GradientReach {
  /** Nodes at which it ends although some of `wrt` lie behind; others may get it on another way. */
  readonly stops: readonly GradientStop[];
  /** Entries of `wrt` that get no gradient at all. */
  readonly unreached: readonly Value[];
}

/** Finds out, without computing anything, which of `wrt` a gradient of `output` reaches and where it ends before. */
export function gradientReach(output: Value, wrt: readonly Value[]): GradientReach {
  const { cotangents, stops } = backward(output, wrt, ones(output));
  return { stops, unreached: wrt.filter((v) => !cotangents.has(v)) };
}
