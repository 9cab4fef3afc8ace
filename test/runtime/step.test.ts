import { expect, test } from "vitest";
import { cast, dropout, input, mul, parameter, random, reshape, type Value } from "../../src/graph/index.ts";
import { compileStep, StepState } from "../../src/runtime/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { randomRef, smallStep } from "./small-step.ts";

const plain = (state: ReadonlyMap<string, Tensor>) => Object.fromEntries([...state].map(([k, t]) => [k, [...t.data]]));

test("two steps on one session equal two steps on two sessions", async () => {
  const { graph, feeds } = smallStep();
  const one = await compileStep(graph, { threads: 1 });
  const losses = [await one.step(feeds(1)), await one.step(feeds(2))].map(({ loss }) => loss.data[0]);
  const state = new StepState();
  const first = await compileStep(graph, { threads: 1, state });
  const again = [(await first.step(feeds(1))).loss.data[0]];
  await first.dispose();
  const second = await compileStep(graph, { threads: 1, state });
  again.push((await second.step(feeds(2))).loss.data[0]);
  expect(again).toEqual(losses);
  expect(plain(await second.readState())).toEqual(plain(await one.readState()));
  expect(losses[1]).not.toBe(losses[0]);
});

test("a step repeats exactly from the same state", async () => {
  const { graph, feeds } = smallStep();
  const runs = await Promise.all(
    [0, 1].map(async () => {
      const program = await compileStep(graph, { threads: 1 });
      for (let i = 0; i < 7; i++) await program.step(feeds(i));
      return plain(await program.readState());
    }),
  );
  expect(runs[0]).toEqual(runs[1]);
});

test("programs of different batch sizes continue each other", async () => {
  const [five, three] = [smallStep({ batch: 5 }), smallStep({ batch: 3 })];
  const state = new StepState();
  const large = await compileStep(five.graph, { threads: 1, state });
  const small = await compileStep(three.graph, { threads: 1, state });
  await large.step(five.feeds(1));
  const between = plain(await large.readState());
  expect(plain(await small.readState())).toEqual(between);
  await small.step(three.feeds(2));
  expect(plain(await large.readState())).not.toEqual(between);
});

test("random inputs repeat with the seed and differ with it", async () => {
  const x = input("x", [3, 50]);
  const y = dropout(x, 0.4);
  const ref = randomRef("w", [1]);
  const next = new Map([[ref, mul(parameter(ref), 1)]]);
  const noise = random({ distribution: "uniform" }, [2, 3]);
  const program = await compileStep({ outputs: { y, noise }, next, names: new Map([[ref, "w"]]) }, { threads: 1 });
  const feeds = { x: Tensor.full("float32", [3, 50], 1) };
  const run = async (seed: number) => {
    const { y: mask, noise: numbers } = await program.step(feeds, seed);
    return { mask: [...mask.data] as number[], numbers: [...numbers.data] as number[] };
  };
  const [first, same, other] = [await run(7), await run(7), await run(8)];
  expect(same).toEqual(first);
  expect(other.mask).not.toEqual(first.mask);
  expect(other.numbers).not.toEqual(first.numbers);
  expect(new Set(first.mask)).toEqual(new Set([0, Math.fround(1 / 0.6)]));
  expect(first.mask.filter((v) => v > 0).length / 150).toBeCloseTo(0.6, 0.5);
  for (const v of first.numbers) expect(v >= 0 && v < 1).toBe(true);
});

test("state must have a name, and its next value its size and type", async () => {
  const ref = randomRef("w", [2, 3]);
  const w = parameter(ref);
  const flat = reshape(w, [-1]);
  const step = (next: Value, name?: string) =>
    compileStep({ outputs: {}, next: new Map([[ref, next]]), names: new Map(name ? [[ref, name]] : []) });
  await expect(step(flat)).rejects.toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: step: a state tensor of shape [2, 3] is changed but has no name. Add it to names.]`,
  );
  await expect(step(w, "w")).rejects.toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: step: the next value of w must be float32 [6], got float32 [2, 3]. Reshape it to [-1].]`,
  );
  await expect(step(cast(flat, "float64"), "w")).rejects.toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: step: the next value of w must be float32 [6], got float64 [6]. Reshape it to [-1].]`,
  );
});

test("feeds are checked by name, type and shape", async () => {
  const { graph, feeds } = smallStep();
  const program = await compileStep(graph, { threads: 1 });
  const { x, ...rest } = feeds(1);
  await expect(program.step(rest)).rejects.toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: runtime: missing input x]`,
  );
  await expect(program.step({ ...rest, x: x.cast("float64") })).rejects.toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: runtime: input x must be float32 [5, 2, 6, 6], got float64 [5, 2, 6, 6]]`,
  );
  await expect(program.step({ ...rest, x: x.reshape([5, 72]) })).rejects.toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: runtime: input x must be float32 [5, 2, 6, 6], got float32 [5, 72]]`,
  );
  await program.dispose();
  await expect(program.step(feeds(1))).rejects.toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: runtime: the program was disposed. Compile it again.]`,
  );
});
