import { fmt, must } from "../errors.ts";
import { isFloating, sameShape, Tensor } from "../tensor/index.ts";
import { add } from "./ops/elementwise.ts";
import { constant, reachable, type Value, where } from "./value.ts";

/**
 * Reverse-mode gradient as a function from graph to graph: the cotangents of `wrt` for the scalar (or, with
 * `cotangent`, the inner product of) `output`. The result consists of ordinary ops and can be differentiated again.
 *
 * @returns one value per entry of `wrt`, of its shape; zeros where the output does not depend on it
 * @throws `grad/missing` when an op on the way has no gradient, naming the op and its layer
 */
export function grad(output: Value, wrt: readonly Value[], cotangent?: Value): Value[] {
  must(
    cotangent ? sameShape(cotangent.shape, output.shape) : output.shape.every((d) => d === 1),
    "grad/scalar",
    () =>
      `grad: the output has shape ${fmt(output.shape)}. Reduce it to one number, or pass a cotangent of that shape.`,
  );
  const nodes = reachable([output]);
  const wanted = new Set(wrt.map((v) => v.node));
  const active = new Set<unknown>();
  for (const node of nodes) if (wanted.has(node) || node.inputs.some((v) => active.has(v.node))) active.add(node);

  const cotangents = new Map<Value, Value>();
  cotangents.set(output, cotangent ?? constant(Tensor.full(output.dtype, output.shape, 1)));
  for (const node of nodes.reverse()) {
    if (!active.has(node) || !node.inputs.length) continue;
    const grads = node.outputs.map((v) => cotangents.get(v));
    const dy = grads.find((g) => g !== undefined);
    if (!dy || !node.inputs.some((v) => active.has(v.node))) continue;
    must(
      node.op.vjp,
      "grad/missing",
      () =>
        `grad: ${where(node)} has no gradient. Use another op there, or leave its inputs out of the parameters to train.`,
      "model",
    );
    const back = node.op.vjp({ inputs: node.inputs, outputs: node.outputs, attrs: node.attrs as never, grads, dy });
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
    }
  }
  return wrt.map((v) => cotangents.get(v) ?? constant(Tensor.zeros(v.dtype, v.shape)));
}
