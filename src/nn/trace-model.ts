import { fmt, must } from "../errors.ts";
import {
  asParameter,
  input,
  type ParameterRef,
  reachable,
  type SharedBatch,
  trace,
  type Value,
  where,
} from "../graph/index.ts";
import type { DType, Shape } from "../tensor/index.ts";
import { firstNames, type Module, type Net, withPaths } from "./module.ts";
import type { Parameter } from "./parameter.ts";

/** A network as a graph. */
export interface TracedModel {
  readonly input: Value;
  readonly output: Value;
  /** What each layer returned, by path; a layer used twice shows its last output. */
  readonly layers: ReadonlyMap<string, Value>;
  /** Names of all parameters and buffers. */
  readonly names: ReadonlyMap<ParameterRef, string>;
  /** New values of running statistics (training mode). */
  readonly updates: ReadonlyMap<ParameterRef, Value>;
  /** Batch counters, once per use of their layer. */
  readonly counters: readonly ParameterRef[];
}

/** State-dict keys by parameter: the first of one that is used in several places. */
export const parameterNames = (model: Module): Map<Parameter, string> => firstNames(model.state());

/** What {@link traceNet} made. */
export interface Traced<T> extends Omit<TracedModel, "input" | "output"> {
  readonly result: T;
  /** Names of the scalars that are fed; see {@link Coefficient}. */
  readonly scalars: readonly string[];
}

/** Parameters that the model does not know would be neither trained nor saved nor merged. */
function mustOwnParameters(outputs: Iterable<Value>, names: ReadonlyMap<ParameterRef, string>): void {
  for (const node of reachable(outputs))
    for (const [i, v] of node.inputs.entries()) {
      const ref = asParameter(v)?.ref;
      must(
        !ref || names.has(ref),
        "trace/parameter",
        () =>
          `trace: ${node.op.inputs[i]} ${fmt(v.shape)} of ${where(node)} is a parameter that is not part of the model. ` +
          "Keep it in a field (lists and records of layers count), and write forward as a method: an arrow function in a field goes on using the original's layers after a copy.",
        "model",
      );
    }
}

/**
 * Runs a network's `forward` once on a symbolic input, in the mode (training, evaluation) that it is in.
 *
 * @throws `trace/parameter` when it uses a parameter that is in no field of its modules
 * @param shape  input shape, batch included: `[N, C, H, W]`
 */
export function traceModel(
  model: Net,
  shape: Shape,
  { inputName = "input", dtype = "float32" }: { readonly inputName?: string; readonly dtype?: DType } = {},
): TracedModel {
  const x = input(inputName, shape, dtype);
  const { result, ...traced } = traceNet(
    model,
    () => model.forward(x),
    (output) => [output],
  );
  const { scalars: _, ...rest } = traced;
  return { input: x, output: result, ...rest };
}

/**
 * Runs `body`, which uses a network in whichever way, in the mode that it is in.
 *
 * @param valuesOf  the values in the result of `body`
 * @param feedsScalars  whether coefficients are inputs of the graph, rather than the numbers that they are. Default false
 * @param sharedBatch  the batch that batch norms are to norm as a whole, where the pictures are one process's share of it
 * @throws `trace/parameter` as of {@link traceModel}
 */
export function traceNet<T>(
  model: Module,
  body: () => T,
  valuesOf: (result: T) => Iterable<Value>,
  {
    feedsScalars = false,
    sharedBatch,
  }: { readonly feedsScalars?: boolean; readonly sharedBatch?: SharedBatch | undefined } = {},
): Traced<T> {
  const scalars = new Map<string, Value>();
  const layers = new Map<string, Value>();
  const { result, updates, counters } = trace(
    () =>
      withPaths(model, body, (path, _, output) => {
        if (output instanceof Object && "node" in output) layers.set(path, output as Value);
      }),
    feedsScalars ? scalars : undefined,
    sharedBatch,
  );
  const names = parameterNames(model);
  mustOwnParameters(valuesOf(result), names);
  return { result, layers, names, updates, counters, scalars: [...scalars.keys()] };
}
