import { expect, test } from "vitest";
import { compileStep } from "../../src/runtime/index.ts";
import { smallStep } from "./small-step.ts";

test("a thousand steps keep memory flat", async () => {
  // 21 kB of state: kept by mistake, a thousand copies would add an eighth to the process.
  const { graph, feeds } = smallStep({ batch: 2, width: 64 });
  await using program = await compileStep(graph, { threads: 1 });
  const batch = feeds(1);
  let step = 0;
  /** Highest resident memory during some steps, in bytes; a single reading depends on when garbage was collected. */
  const peak = async (steps: number): Promise<number> => {
    let highest = 0;
    for (const end = step + steps; step < end; step++) {
      await program.step(batch, step);
      if (step % 10 === 0) highest = Math.max(highest, process.memoryUsage.rss());
    }
    return highest;
  };
  await peak(500);
  const [first, second, third] = [await peak(1000), await peak(1000), await peak(1000)];
  // The heap may be enlarged once; a leak grows in every thousand.
  expect(Math.min(second / first, third / second)).toBeLessThan(1.05);
});
