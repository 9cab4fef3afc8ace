import { expect, test } from "vitest";
import { allReduceBfloat16 } from "../../src/distributed/index.ts";
import { bfloat16ToNumber, numberToBfloat16 } from "../../src/tensor/dtype.ts";
import { rng } from "../../src/tensor/index.ts";
import { inMemory } from "./in-memory.ts";

test("a sum in bfloat16 is within its bound, the same for all, and rounds as a tensor does", async () => {
  const size = 3;
  const random = rng(1, "bfloat16");
  const length = 1000;
  const own = Array.from({ length: size }, () =>
    Float32Array.from({ length }, () => random.normal() * 10 ** (6 * random.next() - 3)),
  );
  const sums = own.map((values) => values.slice());
  await Promise.all(inMemory(size).map((group) => allReduceBfloat16(group, sums[group.rank])));
  const near = (value: number): number => bfloat16ToNumber(numberToBfloat16(value));
  for (let i = 0; i < length; i++) {
    const addends = own.map((values) => values[i]);
    expect(sums[0][i]).toBe(near(addends.map(near).reduce((a, b) => Math.fround(a + b), 0)));
    const exact = addends.reduce((a, b) => a + b, 0);
    const bound = 2 ** -8 * (addends.reduce((a, b) => a + Math.abs(b), 0) + Math.abs(exact));
    expect(Math.abs(sums[0][i] - exact)).toBeLessThanOrEqual(bound * (1 + 2 ** -8));
  }
  for (const other of sums) expect(other).toEqual(sums[0]);
});

test("what is not finite stays so, and more processes than values is no trouble", async () => {
  const groups = inMemory(4);
  const values = [Number.NaN, Number.POSITIVE_INFINITY, 1];
  const all = groups.map(() => new Float32Array(values));
  await Promise.all(groups.map((group) => allReduceBfloat16(group, all[group.rank])));
  expect([...all[3]]).toEqual([Number.NaN, Number.POSITIVE_INFINITY, 4]);
});
