import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { folderStore, type Module, openCheckpointFile, type Tensor } from "../../src/node.ts";
import { stoppedRuns } from "./make-run-fixtures.ts";
import { tempFolder, train } from "./support.ts";

const fixture = (name: string): string =>
  fileURLToPath(new URL(`../fixtures/training/runs/${name}.safetensors`, import.meta.url));

/** Everything in a checkpoint, as plain numbers. */
async function read(name: string): Promise<Map<string, number[]>> {
  using file = await openCheckpointFile(fixture(name));
  const values = new Map<string, number[]>();
  for (const [key, source] of file.entries) values.set(key, [...(await source.read()).toFloat64()]);
  return values;
}

const numbers = (entries: Iterable<[string, Pick<Tensor, "toFloat64">]>): Map<string, number[]> =>
  new Map([...entries].map(([key, t]) => [key, [...t.toFloat64()]]));

const stateOf = (net: Module): Map<string, number[]> =>
  numbers([...net.stateDict()].map(([key, t]) => [key, t.readSync()]));

/** Another processor may round the last bit of a sum otherwise, so equality to the bit is asked for by REPMLP_EXACT=1. */
function expectEqual(found: Map<string, number[]>, expected: Map<string, number[]>): void {
  expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
  for (const [key, values] of expected)
    for (const [i, v] of values.entries()) {
      const own = found.get(key)![i];
      if (process.env.REPMLP_EXACT === "1") expect(own, `${key}[${i}]`).toBe(v);
      else expect(Math.abs(own - v), `${key}[${i}]: ${own}, ${v}`).toBeLessThan(1e-4 * Math.max(1, Math.abs(v)));
    }
}

describe.each(Object.entries(stoppedRuns))("a run that an earlier version stopped: %s", (name, options) => {
  test("goes on from the saved state, which it knows by its names, to where that version's own run ended", async () => {
    const folder = tempFolder();
    copyFileSync(fixture(`${name}.stopped`), join(folder, "last.safetensors"));
    const store = folderStore(folder);
    const saved = await read(`${name}.stopped`);
    const { model, summary, events } = await train({ ...options, store, resume: true });
    expect(events[0]).toMatchObject({ type: "start", resumedAt: 6, changed: [] });
    expect(summary.steps).toBe(12);
    expectEqual(stateOf(model), await read(`${name}.end`));
    if (summary.averaged) expectEqual(stateOf(summary.averaged), await read(`${name}.averaged`));
    const last = (await store.load("last"))!;
    expect([...last.entries.keys()].sort()).toEqual([...saved.keys()].sort());
  });
});
