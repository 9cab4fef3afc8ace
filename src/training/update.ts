import { must } from "../errors.ts";
import { after, input, type ParameterRef, parameter, reshape, type Value } from "../graph/index.ts";
import { Buffer, type Net, type Parameter, parameterNames } from "../nn/index.ts";
import { isFloating } from "../tensor/index.ts";
import type { ParameterGroup } from "./groups.ts";
import {
  chain,
  clipByNorm,
  clipByValue,
  type EmaOptions,
  flat,
  movingAverage,
  type Optimizer,
  reportNorm,
  type Subjects,
  type UpdateRule,
} from "./transforms/index.ts";
import { waitedFor } from "./update-order.ts";

/** What is made of the gradients of a step. */
export interface UpdateOptions {
  readonly optimizer: Optimizer;
  /** Settings by parameter key; none means the optimizer's. */
  readonly group?: (key: string, parameter: Parameter) => ParameterGroup | undefined;
  /**
   * Scales all gradients of a step by one factor where their common 2-norm is larger than this: PyTorch's
   * `clip_grad_norm_`, whose factor is `clipNorm / (norm + 1e-6)`, at most 1.
   */
  readonly clipNorm?: number;
  /** Limits every single value of the gradients to ±this: PyTorch's `clip_grad_value_`. Not together with `clipNorm`. */
  readonly clipValue?: number;
  /** Also returns the gradient of every trained parameter before clipping, as `grad:<key>`. */
  readonly returnGradients?: boolean;
  /** Also returns the 2-norm of all gradients before clipping, as `gradientNorm`. Default: with `clipNorm`. */
  readonly gradientNorm?: boolean;
  /**
   * Keeps an exponential moving average of the weights and, as timm's `ModelEmaV2`, of the running statistics. It starts
   * from the values of the first step.
   */
  readonly ema?: EmaOptions;
}

/** Outputs the gradients as they come to this rule, each in its parameter's shape. */
const reportGradients: UpdateRule = {
  name: "reportGradients",
  settings: {},
  apply: ({ parameters, gradients }) => ({
    outputs: Object.fromEntries(
      parameters.map(({ key, shape }, i) => [`grad:${key}`, reshape(gradients[i], shape)] as const),
    ),
  }),
};

/**
 * The options as one rule: what is told of the gradients, clipping, the optimizer, the average.
 *
 * @throws `clipping/limit`, `ema/decay` for limits that are not positive or exclude each other, and bad decays
 */
export function ruleOf(options: UpdateOptions): UpdateRule {
  const { optimizer, clipNorm, clipValue, returnGradients, gradientNorm = clipNorm !== undefined, ema } = options;
  must(
    clipNorm === undefined || clipValue === undefined,
    "clipping/limit",
    () => `clipping: clipNorm (${clipNorm}) and clipValue (${clipValue}) exclude each other. Choose one.`,
    "usage",
  );
  return chain(
    ...(returnGradients ? [reportGradients] : []),
    ...(gradientNorm ? [reportNorm()] : []),
    ...(clipNorm === undefined ? [] : [clipByNorm(clipNorm)]),
    ...(clipValue === undefined ? [] : [clipByValue(clipValue)]),
    optimizer,
    ...(ema ? [movingAverage(ema)] : []),
  );
}

/** State by the name that it has in checkpoints; kept per parameter, so that steps of several batch sizes share it. */
export type Slots = Map<string, ParameterRef>;

/** Name of a rule's state in checkpoints, beside the model's own keys. */
export const slotName = (name: string): string => `optimizer.${name}`;

type Named<P extends ParameterRef = Parameter> = readonly (readonly [key: string, parameter: P])[];

/** What is trained of a network, and the running statistics beside it. */
export interface Trained {
  readonly parameters: Named;
  readonly statistics: Named;
  readonly subjects: Subjects;
}

/** @throws `train-step/parameters` when nothing is left to train */
export function trainedOf(model: Net, group: UpdateOptions["group"] = () => undefined): Trained {
  const all = [...model.parameters()].map(([key, p]) => [key, p, group(key, p) ?? {}] as const);
  const trained = all.filter(([, , { frozen }]) => !frozen);
  must(trained.length, "train-step/parameters", () => "train step: every parameter is frozen", "usage");
  // What never changes is its own average.
  const statistics = [...parameterNames(model)].flatMap(([p, key]) =>
    p instanceof Buffer && isFloating(p.dtype) ? [[key, p] as const] : [],
  );
  const refOf = (key: string, p: Parameter) => ({ key, dtype: p.dtype, shape: p.shape, source: () => p.source() });
  return {
    parameters: trained.map(([key, p]) => [key, p]),
    statistics,
    subjects: {
      parameters: trained.map(([key, p, settings]) => ({ ...refOf(key, p), group: settings })),
      statistics: statistics.map(([key, p]) => refOf(key, p)),
    },
  };
}

/**
 * The state of a rule by its names, made where `slots` has none yet.
 *
 * @throws `training/state` where a slot, from a checkpoint, has another shape than the rule needs
 */
export function slotsOf(rule: UpdateRule, { subjects }: Trained, slots: Slots): ReadonlyMap<string, ParameterRef> {
  const own = new Map<string, ParameterRef>();
  for (const { name, dtype, shape, source } of rule.state?.(subjects) ?? []) {
    const full = slotName(name);
    const ref = slots.get(full) ?? { dtype, shape, source };
    must(
      ref.dtype === dtype && `${ref.shape}` === `${shape}`,
      "training/state",
      () =>
        `training: the saved ${full} is ${ref.dtype} [${ref.shape.join(", ")}], this run needs ${dtype} [${shape.join(", ")}]. Use the settings that it was saved with, or start a new run from the weights.`,
      "file",
    );
    slots.set(full, ref);
    own.set(name, ref);
  }
  return own;
}

/** What one update needs beside the gradients. */
export interface UpdateContext {
  readonly rule: UpdateRule;
  readonly trained: Trained;
  readonly slots: Slots;
  /** Gets the new values; those that are in it already (statistics) go into the average. */
  readonly next: Map<ParameterRef, Value>;
  readonly names: Map<ParameterRef, string>;
}

/**
 * Applies the rule. Returns the outputs and names of the scalar inputs.
 *
 * @param gradients  flat, of each trained parameter
 * @param uses       what else is computed with the parameters: updates wait for it, so that they can overwrite them
 */
export function update(
  { rule, trained, slots, next, names }: UpdateContext,
  gradients: readonly Value[],
  uses: readonly Value[] = [],
): { readonly outputs: Readonly<Record<string, Value>>; readonly scalars: readonly string[] } {
  const { parameters, statistics, subjects } = trained;
  const refs = slotsOf(rule, trained, slots);
  for (const [name, ref] of refs) names.set(ref, slotName(name));
  const scalarNames = Object.keys(rule.scalars ?? {});
  const scalars = Object.fromEntries(scalarNames.map((name) => [name, input(`scalar:${name}`, [1])]));
  const before = waitedFor(
    [...uses, ...gradients],
    parameters.map(([, p]) => p.value),
    gradients,
  );
  const delayed = (i: number): Record<string, Value> =>
    Object.fromEntries(Object.entries(scalars).map(([name, value]) => [name, after(value, before[i])]));
  const result = rule.apply({
    parameters: parameters.map(([, p], i) => ({
      ...subjects.parameters[i],
      value: flat(p.value),
      scalars: delayed(i),
    })),
    gradients,
    statistics: statistics.map(([, p], i) => ({
      ...subjects.statistics[i],
      value: next.get(p) ?? flat(p.value),
    })),
    state: Object.fromEntries([...refs].map(([name, ref]) => [name, flat(parameter(ref))])),
    scalars,
  });
  for (const [i, value] of (result.parameters ?? []).entries()) next.set(parameters[i][1], value);
  for (const [name, value] of Object.entries(result.state ?? {})) {
    const ref = refs.get(name);
    must(
      ref,
      "rule/state",
      () => `${rule.name}: changes the state "${name}", which it has not named. Name it in state().`,
      "usage",
    );
    next.set(ref, value);
  }
  return { outputs: result.outputs ?? {}, scalars: scalarNames };
}
