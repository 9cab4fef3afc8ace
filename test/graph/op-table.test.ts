import { describe, expect, test } from "vitest";
import { opTable, reachable, type Target, targets } from "../../src/graph/index.ts";
import { buildCase, floats, graphOf } from "./build-case.ts";
import { checkIntermediates, difference, evaluate, type LeafOptions } from "./harness.ts";
import { opCases } from "./op-cases.ts";

const ops = [...new Set(opCases.map(({ op }) => op))];

test("every op has a case", () => {
  // Leaves that every case exercises, or that have tests of their own.
  const elsewhere = ["parameter", "random"];
  expect([...opTable.keys()].filter((op) => !ops.includes(op) && !elsewhere.includes(op))).toEqual([]);
});

describe.each(ops)("%s", (op) => {
  const cases = opCases.filter((c) => c.op === op);
  test.each(cases)("all targets and layouts agree: $name", async (testCase) => {
    const reference = buildCase(testCase, { dtype: "float64" });
    const exact = await evaluate(graphOf(reference), targets.inference, reference.leaves, reference.feeds);
    const [firstInput, ...others] = floats(reference.feeds);
    const ways: readonly [string, Target, Omit<LeafOptions, "dtype">][] = [
      ["inference", targets.inference, {}],
      ["inference, constant parameters", targets.inference, { parameters: others.filter((k) => !/^d\d/.test(k)) }],
      ["CPU training", targets.cpuTraining, { parameters: others }],
      ["CPU training, first input batch-last", targets.cpuTraining, { parameters: others, batchLast: [firstInput] }],
      ["CPU training, all batch-last", targets.cpuTraining, { batchLast: [firstInput, ...others] }],
      ["WebGPU lowering", targets.webgpuTraining, { parameters: others }],
    ];
    for (const [way, target, options] of ways) {
      const built = buildCase(testCase, { ...options, dtype: "float32" });
      expect(reachable(built.outputs).map((n) => n.op.name)).toContain(op);
      const results = await evaluate(graphOf(built), target, built.leaves, built.feeds);
      for (const [key, value] of Object.entries(exact))
        expect(difference(results[key], value.cast("float32")), `${way}: ${key}`).toBeLessThan(
          testCase.tolerance ?? 2e-5,
        );
      if (/all|WebGPU/.test(way)) await checkIntermediates(graphOf(built), target, built.leaves, built.feeds);
    }
  });
});
