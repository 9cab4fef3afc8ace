import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import {
  classification,
  csvHeader,
  type Dataset,
  fileLogs,
  folderStore,
  type Module,
  nn,
  openCheckpointFile,
  rng,
  sampleDataset,
  sgd,
  Trainer,
  type TrainingSummary,
  tensorBoardLog,
} from "../../src/node.ts";
import { learningCurves } from "../../src/report/node/curves.ts";
import { eventsFile } from "../../src/training/node/logs.ts";
import { eventsIn } from "./event-file.ts";
import { tempFolder } from "./support.ts";

/*
 * A run of a version that knew nothing but classes goes on in this one, and leaves what it would have left there: see
 * test/fixtures/runs/README.md.
 */

const fixture = (name: string): string => join(import.meta.dirname, "../fixtures/runs/classification", name);

const toy = (length: number): Dataset =>
  sampleDataset({
    length,
    classes: ["top", "middle", "bottom"],
    imageShape: [1, 4, 4],
    sample: (index, { epoch }) => {
      const random = rng(index, `toy/${epoch}`);
      const label = index % 3;
      const pixel = (i: number): number => random.normal() * 0.3 + (i >> 2 === label ? 2 : 0);
      return { image: Float32Array.from({ length: 16 }, (_, i) => pixel(i)), label };
    },
  });

interface Run {
  readonly model: Module;
  readonly summary: TrainingSummary;
  readonly folder: string;
}

async function run(folder: string, { resume = false, stopAt = -1 } = {}): Promise<Run> {
  const model = new nn.Sequential(
    new nn.Flatten(),
    new nn.Linear(16, 8),
    new nn.ReLU(),
    new nn.Dropout(0.3),
    new nn.Linear(8, 3),
  );
  const stop = new AbortController();
  const summary = await new Trainer(model, {
    data: { train: toy(50), validation: toy(21) },
    task: classification({ labelSmoothing: 0.1 }),
    ...{ epochs: 3, batchSize: 12, lr: 0.1, seed: 5, threads: 1, patience: 2 },
    mix: { mixup: 0.2, cutmix: 1, probability: 0.5 },
    optimizer: sgd({ momentum: 0.9, weightDecay: 1e-4 }),
    ...{ clipNorm: 1, ema: { decay: 0.9, warmup: true } },
    ...{ store: folderStore(folder), resume, signal: stop.signal },
    callbacks: [fileLogs(folder), tensorBoardLog(folder, { every: 2 })],
    onEvent: (event) => {
      if (event.type === "step" && event.step === stopAt) stop.abort();
    },
  }).run();
  return { model, summary, folder };
}

type Values = Readonly<Record<string, readonly number[]>>;

const valuesOf = (model: Module): Values =>
  Object.fromEntries([...model.stateDict()].map(([key, t]) => [key, [...t.readSync().toFloat64()]]));

async function valuesIn(path: string): Promise<Values> {
  using file = await openCheckpointFile(path);
  const entries = [...file.entries].filter(([key]) => !key.startsWith("optimizer."));
  return Object.fromEntries(
    await Promise.all(entries.map(async ([key, t]) => [key, [...(await t.read()).toFloat64()]] as const)),
  );
}

/** Kernels of another processor may round otherwise; on one that rounds as the maker's did, every bit is to be equal. */
let sameRounding: boolean;

function expectEqual(values: Values, expected: Values): void {
  if (sameRounding) expect(values).toEqual(expected);
  else
    for (const [key, numbers] of Object.entries(expected))
      for (const [i, x] of numbers.entries()) expect(values[key][i]).toBeCloseTo(x, 5);
}

beforeAll(async () => {
  const { model } = await run(tempFolder(), { stopAt: 6 });
  const [own, made] = [valuesOf(model), await valuesIn(fixture("last.safetensors"))];
  sameRounding = JSON.stringify(own) === JSON.stringify(made);
});

describe("a run that was begun by an earlier version", () => {
  let resumed: Run;
  beforeAll(async () => {
    const folder = tempFolder();
    copyFileSync(fixture("last.safetensors"), join(folder, "last.safetensors"));
    resumed = await run(folder, { resume: true });
  });

  test("goes on where it stopped, and ends with the weights that it would have had there", async () => {
    expect(resumed.summary).toMatchObject({ finished: true, steps: 12, stoppedEarly: false });
    const { history } = JSON.parse(readFileSync(fixture("curves.json"), "utf8"));
    const results = ({ seconds: _, imagesPerSecond: __, dataWait: ___, ...rest }: Record<string, number>) => rest;
    if (sameRounding) expect(resumed.summary.history.map(results as never)).toEqual(history.map(results));
    expect(resumed.summary.history).toHaveLength(history.length);
    expectEqual(valuesOf(resumed.model), await valuesIn(fixture("final.safetensors")));
    expectEqual(valuesOf(resumed.summary.averaged!), await valuesIn(fixture("averaged.safetensors")));
  });

  test("knows its best result so far", async () => {
    // The later epochs are as good as the first one: a forgotten best would be surpassed.
    using file = await openCheckpointFile(join(resumed.folder, "last.safetensors"));
    expect(JSON.parse(file.metadata["repmlp.training"]).bestTop1).toBe(2 / 3);
    expect(resumed.summary.best).toBe(2 / 3);
  });
});

describe("the same run in this version", () => {
  let whole: Run;
  beforeAll(async () => {
    whole = await run(tempFolder());
  });

  test("ends with the same weights", async () => {
    expectEqual(valuesOf(whole.model), await valuesIn(fixture("final.safetensors")));
    expectEqual(valuesOf(whole.summary.averaged!), await valuesIn(fixture("averaged.safetensors")));
  });

  const times = new Set(["seconds", "secondsLeft", "imagesPerSecond", "dataWait"]);
  /** Keys of every event in their order, and values where they are no times. */
  const lines = (path: string): unknown[] =>
    readFileSync(path, "utf8")
      .trim()
      .split("\n")
      .map((line) =>
        Object.entries(JSON.parse(line)).map(([key, value]) => {
          if (times.has(key)) return [key];
          if (key === "where") return [key, String(value).split("/").at(-1)];
          return [key, typeof value === "number" && !sameRounding ? value.toPrecision(4) : value];
        }),
      );

  test("writes the same JSON Lines, key for key", () => {
    expect(lines(join(whole.folder, "log.jsonl"))).toEqual(lines(fixture("log.jsonl")));
  });

  test("writes the same CSV columns and numbers", () => {
    const [head, ...rows] = readFileSync(fixture("log.csv"), "utf8").trim().split("\n");
    const [own, ...ownRows] = readFileSync(join(whole.folder, "log.csv"), "utf8").trim().split("\n");
    expect(own).toBe(head);
    expect(csvHeader()).toBe(head);
    const results = (row: string): string[] => row.split(",").slice(0, 8);
    if (sameRounding) expect(ownRows.map(results)).toEqual(rows.map(results));
  });

  test("writes the same tags for TensorBoard", () => {
    const tags = (path: string) => eventsIn(path).map(({ step, scalars }) => [step, Object.keys(scalars)]);
    expect(tags(join(whole.folder, eventsFile))).toEqual(tags(fixture(eventsFile)));
  });

  test("draws the same curves", () => {
    const { history, charts } = JSON.parse(readFileSync(fixture("curves.json"), "utf8"));
    expect(learningCurves({ losses: [2, 1.5, 1.2, 1], history })).toEqual(charts);
  });
});
