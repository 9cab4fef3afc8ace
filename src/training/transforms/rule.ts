import { must } from "../../errors.ts";
import { type ParameterRef, reshape, type Value } from "../../graph/index.ts";
import { type DType, type Shape, sizeOf, Tensor, type TensorSource } from "../../tensor/index.ts";
import type { ParameterGroup } from "../groups.ts";

/** What the host knows of a step. */
export interface StepAt {
  /** Learning rate by the schedule. */
  readonly lr: number;
  /** Counts from 1. */
  readonly step: number;
}

/** A trained parameter. */
export interface TrainedParameter extends ParameterRef {
  /** Its key in the state dict. */
  readonly key: string;
  /** Where it is trained otherwise than the rest. */
  readonly group: ParameterGroup;
}

/** A running statistic of the network, which a forward pass updates. */
export interface Statistic extends ParameterRef {
  readonly key: string;
}

/** What an update is about. */
export interface Subjects {
  readonly parameters: readonly TrainedParameter[];
  readonly statistics: readonly Statistic[];
}

/**
 * A tensor that a rule keeps from step to step. It is saved with checkpoints and known to the host
 * (`Learner.readState`, `writeState`) as `optimizer.<name>`.
 */
export interface StateTensor {
  /** `<what>:<of which parameter>`, such as `momentum:linear.weight`; see {@link stateName}. */
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
  /** Values before the first step. */
  source(): TensorSource;
}

/**
 * An update in progress. All values are flat, `[n]`: elementwise arithmetic is fast on them whatever the shape. A rule
 * that looks at rows or kernels takes a view, `reshape(gradient, parameter.shape)`, which costs nothing, and flattens its
 * result.
 */
export interface Update {
  readonly parameters: readonly (TrainedParameter & {
    /** As the rules before have left it. */
    readonly value: Value;
    /**
     * The step's scalars, there once all else that reads the parameter has been computed. A new value made with them
     * can take the place of the old one in memory; without them two buffers are kept.
     */
    readonly scalars: Readonly<Record<string, Value>>;
  })[];
  /** Of the loss by each parameter, in the same order, as the rules before have left them. */
  readonly gradients: readonly Value[];
  /** Running statistics with their new values. */
  readonly statistics: readonly (Statistic & { readonly value: Value })[];
  /** Present values of the rule's own state, by the names that it gave. */
  readonly state: Readonly<Record<string, Value>>;
  /** `[1]` each. */
  readonly scalars: Readonly<Record<string, Value>>;
}

/** What a rule changes; what it leaves out stays. */
export interface UpdateResult {
  /** New values of all parameters, in order. */
  readonly parameters?: readonly Value[];
  /** Gradients for the rules that follow, in order. */
  readonly gradients?: readonly Value[];
  /** New values of the state tensors that change, by name. */
  readonly state?: Readonly<Record<string, Value>>;
  /** Further outputs of the step, by name. */
  readonly outputs?: Readonly<Record<string, Value>>;
}

/** What a rule changes of one parameter; state by its full name. */
export interface ResultOfOne {
  readonly parameter?: Value;
  readonly gradient?: Value;
  readonly state?: Readonly<Record<string, Value>>;
}

/** State by name, read and written between two steps. */
export interface StateAccess {
  /** Steps done. */
  readonly step: number;
  /** Present values of parameters and statistics (by key) and of rules' state (`optimizer.<name>`). */
  readState(names: Iterable<string>): Promise<Map<string, Tensor>>;
  writeState(values: ReadonlyMap<string, Tensor>): Promise<void>;
}

/**
 * One rule of an update, compiled into the step: it sees the gradients of all parameters together, and changes them, the
 * parameters, or what it keeps itself. {@link chain} makes one rule of several; `sgd` and `adamW` are such chains.
 */
export interface UpdateRule {
  /** For messages and run states: a run can be resumed with a rule of the same name only. */
  readonly name: string;
  /** For logs and run states. */
  readonly settings: Readonly<Record<string, string | number | boolean>>;
  /** Numbers of a step by name, computed by the host in float64 and fed to the graph. */
  readonly scalars?: Readonly<Record<string, (at: StepAt) => number>>;
  /** The state that it needs for these parameters. Default none. */
  state?(subjects: Subjects): readonly StateTensor[];
  apply(update: Update): UpdateResult;
  /** Work of the host after each step. What it decides must follow from step and state alone, or resumed runs differ. */
  afterStep?(host: StateAccess): Promise<void>;
}

/**
 * What {@link forEachParameter} made an `apply` of: the result for the `i`-th parameter. A chain takes such rules parameter
 * by parameter, so that what lies between them need not be kept for all parameters at once. Kept by the function, so that a
 * copy of a rule with another `apply` is that other rule.
 */
const forOne = new WeakMap<UpdateRule["apply"], (update: Update, i: number) => ResultOfOne>();

/** Name of a state tensor that belongs to a parameter. */
export const stateName = (what: string, key: string): string => `${what}:${key}`;

/** State of a parameter's shape, zero at the start. */
export const zerosLike = (what: string, { key, dtype, shape }: TrainedParameter): StateTensor => ({
  name: stateName(what, key),
  dtype,
  shape,
  source: () => Tensor.zeros(dtype, shape),
});

export const flat = (value: Value): Value => reshape(value, [sizeOf(value.shape)]);

/** The scalar that most rules need. */
export const rate = { lr: ({ lr }: StepAt): number => lr } as const;

/**
 * The rules one after the other: each sees parameters and gradients as those before have left them. A rule may stand in a
 * chain twice and then shares its state.
 *
 * @throws `chain/scalar`, `chain/state`, `chain/output` when two rules give one name to different things
 */
export function chain(...rules: readonly UpdateRule[]): UpdateRule {
  const different = new Set(rules);
  const scalars: Record<string, (at: StepAt) => number> = {};
  for (const [name, compute] of [...different].flatMap((rule) => Object.entries(rule.scalars ?? {}))) {
    mustBeOne(scalars[name] === undefined || scalars[name] === compute, "scalar", name);
    scalars[name] = compute;
  }
  const hooks = [...different].filter((rule) => rule.afterStep);
  if (rules.every((rule) => forOne.has(rule.apply))) forOne.set(apply, (update, i) => applyAll(rules, update, i));
  return {
    name: rules.map((rule) => rule.name).join("+"),
    settings: Object.assign(
      {},
      ...rules.map(({ name, settings }) =>
        Object.fromEntries(Object.entries(settings).map(([key, value]) => [`${name}.${key}`, value])),
      ),
    ),
    scalars,
    state(subjects) {
      const tensors = [...different].flatMap((rule) => [...(rule.state?.(subjects) ?? [])]);
      const names = new Set<string>();
      for (const { name } of tensors) {
        mustBeOne(!names.has(name), "state", name);
        names.add(name);
      }
      return tensors;
    },
    apply,
    ...(hooks.length && {
      async afterStep(host: StateAccess) {
        for (const rule of hooks) await rule.afterStep?.(host);
      },
    }),
  };

  function apply(update: Update): UpdateResult {
    let now = update;
    const [changed, outputs]: Record<string, Value>[] = [{}, {}];
    for (const rule of runsOf(rules)) {
      const { parameters, gradients = now.gradients, state, outputs: own = {} } = rule.apply(now);
      now = {
        ...now,
        ...(parameters && { parameters: now.parameters.map((p, i) => ({ ...p, value: parameters[i] })) }),
        gradients,
        state: { ...now.state, ...state },
      };
      Object.assign(changed, state);
      for (const [name, value] of Object.entries(own)) {
        mustBeOne(outputs[name] === undefined, "output", name);
        outputs[name] = value;
      }
    }
    const { parameters, gradients } = now;
    return { parameters: parameters.map(({ value }) => value), gradients, state: changed, outputs };
  }
}

/** Neighbours that treat every parameter for itself become one rule. */
function runsOf(rules: readonly UpdateRule[]): Pick<UpdateRule, "apply">[] {
  const runs: Pick<UpdateRule, "apply">[] = [];
  for (let i = 0; i < rules.length; ) {
    let end = i;
    while (end < rules.length && forOne.has(rules[end].apply)) end++;
    const run = rules.slice(i, end);
    runs.push(run.length ? { apply: (update) => applyEach(update, (j) => applyAll(run, update, j)) } : rules[i]);
    i = Math.max(end, i + 1);
  }
  return runs;
}

/** Several rules one after the other on the `i`-th parameter. */
function applyAll(rules: readonly UpdateRule[], update: Update, i: number): ResultOfOne {
  const [parameters, gradients] = [[...update.parameters], [...update.gradients]];
  const changed: Record<string, Value> = {};
  // Names that have changed hide the old ones; copies of all would be made for every parameter.
  const state: Record<string, Value> = Object.create(update.state);
  for (const rule of rules) {
    const result = forOne.get(rule.apply)?.({ ...update, parameters, gradients, state }, i) ?? {};
    if (result.parameter) parameters[i] = { ...parameters[i], value: result.parameter };
    gradients[i] = result.gradient ?? gradients[i];
    Object.assign(changed, result.state);
    Object.assign(state, result.state);
  }
  return { parameter: parameters[i].value, gradient: gradients[i], state: changed };
}

/** The results for each parameter as one. */
function applyEach({ parameters, gradients }: Update, resultOf: (i: number) => ResultOfOne): UpdateResult {
  const results = parameters.map((_, i) => resultOf(i));
  return {
    parameters: results.map(({ parameter }, i) => parameter ?? parameters[i].value),
    gradients: results.map(({ gradient }, i) => gradient ?? gradients[i]),
    state: Object.assign({}, ...results.map(({ state }) => state)),
  };
}

function mustBeOne(condition: boolean, what: string, name: string): void {
  must(
    condition,
    `chain/${what}`,
    () => `chain: two rules have a ${what} "${name}". Rename one, or use one and the same rule.`,
    "usage",
  );
}

/** What a rule for each parameter alone sees: {@link Update}, of one. */
export interface ParameterUpdate {
  readonly key: string;
  readonly shape: Shape;
  readonly group: ParameterGroup;
  readonly value: Value;
  readonly gradient: Value;
  /** By what they are: `momentum`, not `momentum:linear.weight`. Absent where the parameter has none. */
  readonly state: Readonly<Record<string, Value>>;
  /** See {@link Update}: those that let the new value take the old one's place. */
  readonly scalars: Readonly<Record<string, Value>>;
}

/** What changes of one parameter. */
export interface ParameterResult {
  readonly value?: Value;
  readonly gradient?: Value;
  readonly state?: Readonly<Record<string, Value>>;
}

/** A rule that treats every parameter for itself. */
export interface RuleForEach extends Pick<UpdateRule, "name" | "settings" | "scalars"> {
  /** State of a parameter. Default none. */
  state?(parameter: TrainedParameter): readonly StateTensor[];
  apply(update: ParameterUpdate): ParameterResult;
}

/** Makes a rule of one for each parameter. */
export function forEachParameter({ state, apply, ...rule }: RuleForEach): UpdateRule {
  const statesOf = (p: TrainedParameter): readonly StateTensor[] => state?.(p) ?? [];
  const applyTo = ({ parameters, gradients, state: all }: Update, i: number): ResultOfOne => {
    const { key, shape, group, value, scalars } = parameters[i];
    const own = statesOf(parameters[i]).map(({ name }) => [name.slice(0, -key.length - 1), all[name]] as const);
    const result = apply({ key, shape, group, value, gradient: gradients[i], state: Object.fromEntries(own), scalars });
    const next = Object.entries(result.state ?? {}).map(([what, v]) => [stateName(what, key), v] as const);
    return { parameter: result.value, gradient: result.gradient, state: Object.fromEntries(next) };
  };
  const made = (update: Update): UpdateResult => applyEach(update, (i) => applyTo(update, i));
  forOne.set(made, applyTo);
  return { ...rule, state: ({ parameters }) => parameters.flatMap(statesOf), apply: made };
}

/** @throws `<where>/option` for a setting out of its range */
export function mustBeIn(
  where: string,
  values: Readonly<Record<string, number | undefined>>,
  from: number,
  below: number,
): void {
  for (const [name, value] of Object.entries(values))
    must(
      value === undefined || (value >= from && value < below),
      `${where}/option`,
      () =>
        `${where}: ${name} must be at least ${from}${Number.isFinite(below) ? ` and below ${below}` : ""}, got ${value}`,
      "usage",
    );
}
