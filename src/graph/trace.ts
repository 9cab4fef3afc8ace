import { must } from "../errors.ts";
import type { ParameterRef, Value } from "./op.ts";
import { currentPath } from "./path.ts";
import { input } from "./value.ts";

/** A batch of which several processes have a share each. */
export interface SharedBatch {
  /** This process among them. */
  readonly rank: number;
  /** Part of the batch's pictures that each has; they add up to 1. */
  readonly shares: readonly number[];
}

/** What running a forward function records beside its result. */
export interface Trace {
  /** New values of buffers (batch-norm statistics) to be stored after the step. */
  readonly updates: Map<ParameterRef, Value>;
  /** Counters that this pass increases by one each time they are listed. */
  readonly counters: ParameterRef[];
  /** Numbers that are fed at every step, by name; without it they are what they are at the moment. */
  readonly scalars?: Map<string, Value> | undefined;
  /** Batch norms norm by the statistics of all processes' shares of the batch, of which this one has the pictures. */
  readonly sharedBatch?: SharedBatch | undefined;
}

let current: Trace | undefined;

/**
 * Runs `body` and records the buffer updates that it asks for; within another trace, which then knows nothing of them.
 *
 * @param fed          takes the scalars that `body` asks for: see {@link scalarInput}
 * @param sharedBatch  of which batch the pictures are a share, where batch norms are to norm by the whole. Default of both:
 *   those of the trace around it
 */
export function trace<T>(
  body: () => T,
  fed?: Map<string, Value>,
  sharedBatch?: SharedBatch,
): {
  readonly result: T;
  readonly updates: ReadonlyMap<ParameterRef, Value>;
  readonly counters: readonly ParameterRef[];
} {
  const outer = current;
  const recorded: Trace = {
    updates: new Map(),
    counters: [],
    scalars: fed ?? outer?.scalars,
    sharedBatch: sharedBatch ?? outer?.sharedBatch,
  };
  current = recorded;
  try {
    return { result: body(), ...recorded };
  } finally {
    current = outer;
  }
}

/**
 * Asks that `ref` take the value `next` after this step. A module used twice in one pass updates in turn: see
 * {@link pendingUpdate}.
 */
export function updateBuffer(ref: ParameterRef, next: Value): void {
  must(
    current,
    "trace/outside",
    () =>
      `trace: a layer in training mode${currentPath() && ` (${currentPath()})`} was run outside trace(). ` +
      "Call model.eval() first, or run it through trace() or a Trainer.",
    "model",
  );
  current.updates.set(ref, next);
}

/** The value that an earlier use of the layer in the same pass has given to the buffer, if any. */
export const pendingUpdate = (ref: ParameterRef): Value | undefined => current?.updates.get(ref);

/** The input `scalar:<name>` `[1]` of a step whose scalars are fed; nothing where they are not. */
export function scalarInput(name: string): Value | undefined {
  const scalars = current?.scalars;
  if (!scalars) return undefined;
  const value = scalars.get(name) ?? input(`scalar:${name}`, [1]);
  scalars.set(name, value);
  return value;
}

/** The batch that is normed as a whole, in a pass for one of several processes. */
export const sharedBatch = (): SharedBatch | undefined => current?.sharedBatch;

/** Counts this pass in a counter kept by the host: integer state has no place on most devices. */
export const countBatch = (ref: ParameterRef): void => void current?.counters.push(ref);
