import { expect, test } from "vitest";
import { compileStep } from "../../src/runtime/index.ts";
import { smallStep } from "./small-step.ts";

test("fifteen hundred steps keep memory flat", async () => {
  // 270 kB of state: kept by mistake, five hundred copies would add half to the process.
  const { graph, feeds } = smallStep({ batch: 2, width: 256 });
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
  await peak(250);
  const [first, second, third] = [await peak(500), await peak(500), await peak(500)];
  // The heap may be enlarged once, and a busy machine collects garbage late; a leak grows in every part of the run.
  expect(Math.min(second / first, third / second)).toBeLessThan(1.2);
});
