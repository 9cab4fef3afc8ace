import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { adamW, scheduleOf, sgd, stepSchedule, warmupCosine, warmupPolynomial } from "../../src/training/index.ts";

/** Rates of PyTorch's schedulers at 12 steps, made by make-fixtures.py. */
const torch = JSON.parse(readFileSync(new URL("../fixtures/training/updates.json", import.meta.url), "utf8")) as {
  readonly linear: readonly number[];
  readonly polynomial: readonly number[];
};

describe("warm-up and cosine", () => {
  const schedule = warmupCosine({ lr: 0.2, totalSteps: 105, warmupSteps: 5, minLr: 0.02 });
  test.for([
    [0, 0],
    [1, 0.04],
    [5, 0.2],
    [55, 0.11],
    [105, 0.02],
    [1000, 0.02],
  ] as const)("rate at step %i is %f", ([step, rate]) => {
    expect(schedule(step)).toBeCloseTo(rate, 12);
  });

  test("needs steps after the warm-up", () => {
    expect(() => warmupCosine({ lr: 1, totalSteps: 5, warmupSteps: 5 })).toThrow("must be more than warmupSteps");
  });
});

describe("straight lines and polynomials", () => {
  const plan = { lr: 0.4, epochs: 2, stepsPerEpoch: 5 };
  test.for([
    ["linear", { kind: "linear", minLr: 0.04 }],
    ["polynomial", { kind: "polynomial", power: 2 }],
    ["polynomial", { kind: "polynomial" }],
  ] as const)("%s %j as in PyTorch", ([name, spec]) => {
    for (const [step, rate] of torch[name].entries()) expect(scheduleOf(spec, plan)(step)).toBeCloseTo(rate, 10);
  });

  test("after a warm-up, which is linear from 0", () => {
    const rates = scheduleOf({ kind: "polynomial", power: 3, minLr: 0.1 }, { ...plan, warmupEpochs: 0.4 });
    expect([0, 1, 2, 6, 10].map(rates)).toEqual([0, 0.2, 0.4, expect.closeTo(0.1 + 0.3 / 8, 12), 0.1]);
  });

  test("need a positive power", () => {
    expect(() => warmupPolynomial({ lr: 1, totalSteps: 5, power: 0 })).toThrow(
      "power must be a positive number, got 0",
    );
  });
});

test("steps: the rate falls at each milestone", () => {
  const schedule = stepSchedule({ lr: 1, milestones: [10, 20], warmupSteps: 2 });
  expect([0, 1, 2, 9, 10, 19, 20].map(schedule)).toEqual([0, 0.5, 1, 1, 0.1, 0.1, expect.closeTo(0.01, 12)]);
});

test("optimizers refuse options out of range", () => {
  expect(() => sgd({ momentum: 1 })).toThrow("momentum must be at least 0 and below 1, got 1");
  expect(() => sgd({ nesterov: true })).toThrow("nesterov needs a momentum above 0");
  expect(() => sgd({ weightDecay: -1 })).toThrow("weightDecay must be at least 0, got -1");
  expect(() => adamW({ betas: [0.9, 1] })).toThrow("beta2 must be at least 0 and below 1");
});
