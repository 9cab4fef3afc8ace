import { expect, test } from "vitest";
import { defaultThreads } from "../../src/runtime/node/platform.ts";

test("threads by default: OMP_NUM_THREADS, its first level; else the physical cores", () => {
  const cores = defaultThreads({});
  expect(cores).toBeGreaterThanOrEqual(1);
  expect(defaultThreads({ OMP_NUM_THREADS: "3" })).toBe(3);
  expect(defaultThreads({ OMP_NUM_THREADS: "7,2" })).toBe(7);
  for (const wrong of ["", "0", "-1", "many", "1.5"]) expect(defaultThreads({ OMP_NUM_THREADS: wrong })).toBe(cores);
});
