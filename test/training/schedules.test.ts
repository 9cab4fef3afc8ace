import { describe, expect, test } from "vitest";
import { adamW, sgd, stepSchedule, warmupCosine } from "../../src/training/index.ts";

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
