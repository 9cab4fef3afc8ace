import { describe, expect, test } from "vitest";
import {
  add,
  cast,
  concat,
  constant,
  div,
  equal,
  expand,
  gather,
  greater,
  lower,
  minimum,
  mul,
  neg,
  opTable,
  select,
  slice,
  sub,
  targets,
  transpose,
  type Value,
} from "../../src/graph/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { difference, evaluate, feedOf, makeLeaves, program, specOf } from "./harness.ts";
import { type OpCase, opCases } from "./op-cases.ts";

/** The outputs of a case, first with its inputs fed, then with them as constants. */
async function bothWays({ op, name, inputs, build }: OpCase): Promise<[Tensor[], Tensor[], string[]]> {
  const feeds = Object.fromEntries(
    Object.entries(inputs).map(([key, spec]) => [key, feedOf(`${op} ${name} ${key}`, specOf(spec), "float64")]),
  );
  const run = async (values: Readonly<Record<string, Value>>): Promise<Tensor[]> => {
    const built = [build(values)].flat() as Value[];
    const outputs = Object.fromEntries(built.map((v, i) => [`y:${i}`, v]));
    return Object.values(await evaluate({ outputs }, targets.inference, { names: new Map() }, feeds));
  };
  const constants = Object.fromEntries(Object.entries(feeds).map(([key, tensor]) => [key, constant(tensor)]));
  const outputs = Object.fromEntries([build(constants)].flat().map((v, i) => [`y:${i}`, v as Value]));
  const { model } = lower({ outputs }, { target: targets.inference });
  const kinds = model.nodes.map((n) => n.opType);
  return [await run(makeLeaves(feeds, { dtype: "float64" }).values), await run(constants), kinds];
}

const foldable = opCases.filter(({ op }) => opTable.get(op)!.fold);

test.each(foldable)("the host computes what ONNX Runtime does: $op, $name", async (testCase) => {
  const [computed, folded, kinds] = await bothWays(testCase);
  for (const [i, value] of computed.entries()) expect(difference(folded[i], value)).toBeLessThan(1e-14);
  if (!testCase.name.includes("adaptive")) expect(new Set(kinds)).toEqual(new Set(["Identity"]));
});

describe("integers", () => {
  const whole = (...values: number[]) => constant(Tensor.of("int64", [values.length], values));
  const largest = constant(new Tensor("int64", [1], BigInt64Array.of(2n ** 63n - 1n)));
  const cases: Readonly<Record<string, readonly [Value, readonly (number | bigint)[]]>> = {
    "division goes towards zero": [div(whole(7, -7, 8), whole(2)), [3n, -3n, 4n]],
    arithmetic: [sub(mul(whole(2, 3), whole(5)), add(neg(whole(1)), whole(4))), [7n, 12n]],
    "the largest integer is moved unharmed": [
      gather(concat([whole(1, 2), slice(largest, [{ axis: 0, start: 0, end: 1 }])], 0), [-1, 0]),
      [2n ** 63n - 1n, 1n],
    ],
    "the largest integer as an end": [minimum(largest, whole(9)), [9n]],
    "beyond the largest integer": [greater(mul(largest, whole(2)), whole(0)), [1]],
    selection: [select(equal(whole(-1, 4), whole(-1)), whole(7), whole(-1, 4)), [7n, 4n]],
    "matrix of rows and columns": [transpose(expand(whole(1, 2), [3, 2]), [1, 0]), [1n, 1n, 1n, 2n, 2n, 2n]],
    "to floats and back": [cast(div(cast(whole(7), "float32"), 2), "int64"), [3n]],
  };
  test.each(Object.entries(cases))("%s", async (_, [value, expected]) => {
    const { model } = lower({ outputs: { y: value } }, { target: targets.inference });
    expect(model.nodes.map((n) => n.opType)).toEqual(["Identity"]);
    await using compiled = await program(model);
    expect([...(await compiled.run({})).y.data]).toEqual(expected);
  });
});

test("what would be large is left to ONNX Runtime", () => {
  const zero = constant(Tensor.scalar(0));
  const { model } = lower({ outputs: { y: expand(zero, [1000, 1000]) } }, { target: targets.inference });
  expect(model.nodes.map((n) => n.opType)).toEqual(["Expand"]);
});
