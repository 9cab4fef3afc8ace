import { must } from "../../errors.ts";
import { isFloating } from "../../tensor/index.ts";
import { defineOp, type Value } from "../value.ts";

type None = Record<string, never>;

/** Order in time, as a shape that is made from the sizes of the tensors to wait for. */
const afterOp = defineOp<None>({
  name: "after",
  inputs: ["x", "...others"],
  infer: ([x, ...others]) => {
    must(isFloating(x.dtype), "after/dtype", () => `after: x is ${x.dtype}. Cast it to a floating type.`);
    must(others.length, "after/others", () => "after: there is nothing to wait for. Use x itself.");
    return x;
  },
  vjp: ({ inputs, dy }) => inputs.map((_, i) => (i ? undefined : dy)),
  lower: (lowering, { inputs: [x, ...others] }) => {
    const { emit, target } = lowering;
    const layout = lowering.layoutOf(x);
    const handle = lowering.read(x, layout);
    // Only where the host's memory is written in place does the order matter.
    if (target.device !== "cpu" || target.parameters !== "inputs") return { handle, layout };
    const one = emit.oneAfter(others.map((v) => lowering.read(v, lowering.layoutOf(v))));
    return { handle: emit.delayed(handle, one), layout };
  },
});

/**
 * A view of `x` that is there when all `others` have been computed: an order that the CPU's training graphs keep; elsewhere
 * it is `x` itself. `others` may not be empty tensors.
 */
export const after = (x: Value, others: readonly Value[]): Value => (others.length ? afterOp([x, ...others], {}) : x);
