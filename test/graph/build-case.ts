import { constant, type Value } from "../../src/graph/index.ts";
import { isFloating, type Tensor } from "../../src/tensor/index.ts";
import {
  type Derivatives,
  derivatives,
  type FloatDType,
  feedOf,
  type LeafOptions,
  makeLeaves,
  specOf,
} from "./harness.ts";
import type { OpCase } from "./op-cases.ts";

type Feeds = Readonly<Record<string, Tensor>>;

const feedsOf = ({ op, name, inputs }: OpCase, dtype: FloatDType): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(inputs).map(([key, s]) => [key, feedOf(`${op} ${name} ${key}`, specOf(s), dtype)]));

/** Names of the inputs that can be differentiated. */
export const floats = (feeds: Feeds): string[] => Object.keys(feeds).filter((key) => isFloating(feeds[key].dtype));

const outputsOf = (test: OpCase, values: Readonly<Record<string, Value>>): readonly Value[] => {
  const built = test.build(values);
  return Array.isArray(built) ? built : [built as Value];
};

export interface Built extends Derivatives {
  readonly leaves: ReturnType<typeof makeLeaves>;
  /** Values of all inputs, the cotangents `d0`, `d1`, … included. */
  readonly feeds: Feeds;
}

/** The graph of a case with its first and second derivatives. */
export function buildCase(test: OpCase, options: LeafOptions): Built {
  const own = feedsOf(test, options.dtype);
  const types = outputsOf(test, makeLeaves(own, options).values).map((v) => v.type);
  const seeds = Object.fromEntries(
    types.map(({ shape }, i) => [`d${i}`, feedOf(`${test.name} d${i}`, { shape }, options.dtype)]),
  );
  const feeds = { ...own, ...seeds };
  const cotangents = options.batchLast?.length ? Object.keys(seeds) : [];
  const leaves = makeLeaves(feeds, { ...options, batchLast: [...(options.batchLast ?? []), ...cotangents] });
  const { values } = leaves;
  const wrt = floats(own).map((key) => values[key]);
  const directions = wrt.map(({ shape }, i) =>
    constant(feedOf(`${test.name} direction ${i}`, { shape }, options.dtype)),
  );
  const made = derivatives(
    outputsOf(test, values),
    wrt,
    Object.keys(seeds).map((key) => values[key]),
    directions,
  );
  return { ...made, leaves, feeds };
}

const named = (prefix: string, values: readonly Value[]): Record<string, Value> =>
  Object.fromEntries(values.map((v, i) => [`${prefix}${i}`, v]));

/** Everything that {@link buildCase} makes, as one graph. */
export const graphOf = ({ outputs, first, second }: Built) => ({
  outputs: { ...named("y:", outputs), ...named("first:", first), ...named("second:", second) },
});
