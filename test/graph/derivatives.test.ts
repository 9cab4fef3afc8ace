import { describe, expect, test } from "vitest";
import { lower, targets, type Value } from "../../src/graph/index.ts";
import { permutation, rng, Tensor } from "../../src/tensor/index.ts";
import { type Built, buildCase, floats, graphOf } from "./build-case.ts";
import { evaluate, feedsFor, program, sampledDifference } from "./harness.ts";
import { opCases } from "./op-cases.ts";

/** Central differences of a scalar by elements of some inputs, in float64; NaN for those left out. */
async function finiteDifferences(scalar: Value, built: Built, keys: readonly string[]): Promise<Tensor[]> {
  const { model } = lower({ outputs: { scalar } }, { target: targets.inference });
  await using compiled = await program(model);
  const step = 1e-5;
  const at = async (key: string, i: number, shift: number): Promise<number> => {
    const moved = built.feeds[key].toFloat64().slice();
    moved[i] += shift;
    const feeds = { ...built.feeds, [key]: Tensor.of("float64", built.feeds[key].shape, moved) };
    return (await compiled.run(feedsFor(model, feeds))).scalar.toFloat64()[0];
  };
  const slopes: Tensor[] = [];
  for (const key of keys) {
    const { shape, size } = built.feeds[key];
    // Large inputs: as many elements, drawn at random, as decide the matter.
    const values = new Float64Array(size).fill(Number.NaN);
    for (const i of permutation(size, rng(3, key)).subarray(0, 24))
      values[i] = ((await at(key, i, step)) - (await at(key, i, -step))) / (2 * step);
    slopes.push(Tensor.of("float64", shape, values));
  }
  return slopes;
}

const ops = [...new Set(opCases.map(({ op }) => op))];

describe.each(ops)("%s", (op) => {
  const cases = opCases.filter((c) => c.op === op);
  test.each(cases)("first and second derivatives against finite differences: $name", async (testCase) => {
    const built = buildCase(testCase, { dtype: "float64" });
    const other = testCase.differentiatedAs;
    const moved = other ? buildCase({ ...testCase, build: other }, { dtype: "float64" }) : built;
    const exact = await evaluate(graphOf(built), targets.inference, built.leaves, built.feeds);
    const cotangents = built.outputs.map((_, i) => `d${i}`);
    const wrt = floats(built.feeds).filter((key) => !cotangents.includes(key));
    const first = await finiteDifferences(moved.total, moved, wrt);
    for (const [i, slope] of first.entries())
      expect(sampledDifference(exact[`first:${i}`], slope), `gradient for ${wrt[i]}`).toBeLessThan(1e-7);
    const second = await finiteDifferences(moved.slope, moved, [...wrt, ...cotangents]);
    for (const [i, slope] of second.entries())
      expect(
        sampledDifference(exact[`second:${i}`], slope),
        `second gradient for ${[...wrt, ...cotangents][i]}`,
      ).toBeLessThan(1e-6);
  });
});
