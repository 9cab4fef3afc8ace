import { fmt, must } from "../../errors.ts";
import { Tensor } from "../../tensor/index.ts";
import { physicalAxis } from "../layout.ts";
import { constant, defineOp, mustRank, type Value } from "../value.ts";
import { normalizeAxes } from "./axes.ts";
import { reduceSum, reshape } from "./broadcast.ts";
import { abs, add, cast, clip, div, exp, mul, neg, sub } from "./elementwise.ts";

interface AxisAttrs {
  readonly axis: number;
}

const softmaxOp = defineOp<AxisAttrs>({
  name: "softmax",
  inputs: ["x"],
  infer: ([x]) => x,
  vjp: ({ outputs: [y], dy, attrs: { axis } }) => [mul(y, sub(dy, reduceSum(mul(dy, y), axis, { keepDims: true })))],
  lower: (lowering, { inputs: [x] }, { axis }) => {
    const layout = lowering.layoutOf(x);
    const at = physicalAxis(axis, x.shape.length, layout);
    return { handle: lowering.emit.unary("Softmax", lowering.read(x, layout), { axis: at }), layout };
  },
});

const logSoftmaxOp = defineOp<AxisAttrs>({
  name: "logSoftmax",
  inputs: ["x"],
  infer: ([x]) => x,
  vjp: ({ outputs: [y], dy, attrs: { axis } }) => [sub(dy, mul(exp(y), reduceSum(dy, axis, { keepDims: true })))],
  lower: (lowering, { inputs: [x] }, { axis }) => {
    const { emit, target } = lowering;
    const layout = lowering.layoutOf(x);
    const at = physicalAxis(axis, x.shape.length, layout);
    const handle = lowering.read(x, layout);
    if (target.device === "cpu") return { handle: emit.unary("LogSoftmax", handle, { axis: at }), layout };
    // Not on the device: x − max − log Σ exp(x − max).
    const shifted = emit.sub(handle, emit.reduce("ReduceMax", handle, [at], true));
    const total = emit.reduce("ReduceSum", emit.unary("Exp", shifted), [at], true);
    return { handle: emit.sub(shifted, emit.unary("Log", total)), layout };
  },
});

const axisOf = (op: string, x: Value, axis: number): AxisAttrs => ({
  axis: normalizeAxes(op, x.shape.length, axis)[0],
});

/** Softmax over one axis. Default axis 1. */
export const softmax = (x: Value, axis = 1): Value => softmaxOp([x], axisOf("softmax", x, axis));
/** Logarithm of the softmax over one axis, computed stably. Default axis 1. */
export const logSoftmax = (x: Value, axis = 1): Value => logSoftmaxOp([x], axisOf("logSoftmax", x, axis));

/**
 * Class numbers as one-hot rows: `[N]` → `[N, classes]`. Written as arithmetic, max(0, 1 − |label − class|), because
 * ONNX's OneHot leaves the device on WebGPU. An invalid number gives a row of zeros.
 */
export function oneHot(labels: Value, classes: number, dtype: "float32" | "float64" = "float32"): Value {
  mustRank("oneHot", "labels", labels.type, 1);
  const range = constant(
    Tensor.of(
      dtype,
      [1, classes],
      Array.from({ length: classes }, (_, i) => i),
    ),
  );
  const column = reshape(cast(labels, dtype), [labels.shape[0], 1]);
  return clip(sub(1, abs(sub(column, range))), 0, 1);
}

export interface CrossEntropyOptions {
  /** Share of the target spread evenly over all classes, in [0, 1). Default 0. */
  readonly labelSmoothing?: number;
}

/**
 * Mean cross entropy of logits `[N, classes]` and a target: class numbers `[N]` (integers), or a distribution
 * `[N, classes]` (soft labels, mixup). With smoothing s the target becomes (1 − s)·q + s / classes.
 */
export function crossEntropy(logits: Value, target: Value, { labelSmoothing = 0 }: CrossEntropyOptions = {}): Value {
  mustRank("crossEntropy", "logits", logits.type, 2);
  const [n, classes] = logits.shape;
  must(
    labelSmoothing >= 0 && labelSmoothing < 1,
    "crossEntropy/smoothing",
    () => `crossEntropy: label smoothing must be in [0, 1), got ${labelSmoothing}`,
    "usage",
  );
  must(
    target.shape[0] === n && (target.shape.length === 1 || (target.shape.length === 2 && target.shape[1] === classes)),
    "crossEntropy/target",
    () =>
      `crossEntropy: logits are ${fmt(logits.shape)}, so the target must be [${n}] or [${n}, ${classes}], got ${fmt(target.shape)}`,
  );
  const dtype = logits.dtype === "float64" ? "float64" : "float32";
  const q = target.shape.length === 1 ? oneHot(target, classes, dtype) : target;
  const smooth = labelSmoothing ? add(mul(q, 1 - labelSmoothing), labelSmoothing / classes) : q;
  return div(neg(reduceSum(mul(smooth, logSoftmax(logits)))), n);
}
