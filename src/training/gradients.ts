import { listed, must } from "../errors.ts";
import { gradientReach } from "../graph/index.ts";
import { type Net, traceModel } from "../nn/index.ts";
import type { Shape } from "../tensor/index.ts";

/** An op at which the gradient ends before it reaches parameters that are to be trained. */
export interface GradientGap {
  /** Op of this library. */
  readonly op: string;
  /** Path of the layer, the name of the node for a network from ONNX. */
  readonly path: string;
  /** `missing`: it has no gradient; `zero`: its derivative is zero (rounding, comparing, casting to integers). */
  readonly why: "missing" | "zero";
}

export interface GradientReport {
  /** Parameters that get a gradient. */
  readonly trained: readonly string[];
  /** Parameters that are to be trained and get none. */
  readonly unreached: readonly string[];
  readonly gaps: readonly GradientGap[];
}

export interface GradientReportOptions {
  /** Shape of a batch, `[N, C, H, W]`. */
  readonly inputShape: Shape;
  /** Which parameters are to be trained. Default all. */
  readonly trained?: (key: string) => boolean;
}

/**
 * Whether every op between a network's output and the parameters to be trained has a gradient. Nothing is computed and
 * nothing is changed but the mode, which is training mode afterwards.
 */
export function gradientReport(
  model: Net,
  { inputShape, trained = () => true }: GradientReportOptions,
): GradientReport {
  model.train();
  const { output } = traceModel(model, inputShape);
  const wanted = [...model.parameters()].filter(([key]) => trained(key));
  const { stops, unreached } = gradientReach(
    output,
    wanted.map(([, p]) => p.value),
  );
  const none = new Set(unreached);
  return {
    trained: wanted.flatMap(([key, p]) => (none.has(p.value) ? [] : [key])),
    unreached: wanted.flatMap(([key, p]) => (none.has(p.value) ? [key] : [])),
    gaps: stops.map(({ node, why }) => ({ op: node.op.name, path: node.path, why })),
  };
}

/**
 * Throws unless a network can be trained as asked for.
 *
 * @throws `training/gradient` naming each op and its node, and the parameters that would get no gradient
 */
export function mustHaveGradients(model: Net, options: GradientReportOptions): GradientReport {
  const report = gradientReport(model, options);
  const { unreached, gaps } = report;
  must(
    !unreached.length && gaps.every(({ why }) => why === "zero"),
    "training/gradient",
    () => `training: ${describeGaps(report)}. Freeze what lies before, or have the exporter replace the op.`,
    "model",
  );
  return report;
}

/** Where the gradient ends and what it does not reach, in a sentence without its stop. */
export function describeGaps({ unreached, gaps }: GradientReport): string {
  const at = gaps.map(
    ({ op, path, why }) =>
      `${op} (${path || "no layer"}) has ${why === "missing" ? "no gradient" : "a gradient of zero"}`,
  );
  const without = unreached.length
    ? `${listed(unreached, 3)} ${unreached.length > 1 ? "get" : "gets"} no gradient`
    : undefined;
  return [listed(at, 5), without].filter(Boolean).join("; ");
}
