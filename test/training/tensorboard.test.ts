import { appendFileSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { eventsFile, folderStore, type TrainingEvent, tensorBoardLog } from "../../src/node.ts";
import { crc32c } from "../../src/training/tensorboard.ts";
import { checksum, type Entry, eventsIn as eventsInFile } from "./event-file.ts";
import { tempFolder, train } from "./support.ts";

const eventsIn = (folder: string): Entry[] => eventsInFile(join(folder, eventsFile), { now: Date.now() / 1000 });

test("CRC-32C of the standard's example", () => {
  expect(crc32c(new TextEncoder().encode("123456789"))).toBe(0xe3069283);
  expect(checksum(new TextEncoder().encode("123456789"))).toBe(0xe3069283);
});

describe("event files", () => {
  const log = (folder: string) => tensorBoardLog(folder, { every: 3 });

  test("hold the curves: every third step, every epoch", async () => {
    const folder = tempFolder();
    const { events, summary } = await train({ callbacks: [log(folder)], clipNorm: 1 });
    const [first, ...entries] = eventsIn(folder);
    expect(first).toMatchObject({ version: "brain.Event:2", step: 0 });
    expect(entries.map((e) => e.step)).toEqual([3, 4, 6, 8, 9, 12, 12]);
    const third = events.find((e) => e.type === "step" && e.step === 3) as Extract<TrainingEvent, { type: "step" }>;
    expect(entries[0].scalars).toEqual({
      "train/loss": Math.fround(third.loss),
      "train/lr": Math.fround(third.lr),
      "train/gradient_norm": Math.fround(third.gradientNorm!),
      "images/s": Math.fround(third.imagesPerSecond),
    });
    const [record] = summary.history;
    expect(entries[1].scalars).toEqual({
      "epoch/train_loss": Math.fround(record.trainLoss),
      "epoch/train_top1": Math.fround(100 * record.trainTop1),
      "epoch/images/s": Math.fround(record.imagesPerSecond),
      "val/loss": Math.fround(record.validationLoss!),
      "val/top1": Math.fround(100 * record.validationTop1!),
      "val/top5": 100,
    });
  });

  test("are continued from the resumed step; what a crash undid or cut off is forgotten", async () => {
    const folder = tempFolder();
    const store = folderStore(folder);
    const crash = (event: TrainingEvent): void => {
      if (event.type === "step" && event.step === 10) throw new Error("pulled the plug");
    };
    await expect(train({ store, callbacks: [log(folder), crash] })).rejects.toThrow("plug");
    expect(eventsIn(folder).at(-1)).toMatchObject({ step: 9 });
    const path = join(folder, eventsFile);
    truncateSync(path, readFileSync(path).length - 5);
    await train({ store, resume: true, callbacks: [log(folder)] });
    expect(eventsIn(folder).map((e) => e.step)).toEqual([0, 3, 4, 6, 8, 9, 12, 12]);
  });

  test("end where a byte is wrong, and begin anew when that is the first record, or with a new run", async () => {
    const folder = tempFolder();
    const start = { type: "start", epochs: 1, steps: 4, stepsPerEpoch: 4, parameters: 1, changed: [] } as const;
    await train({ epochs: 1, callbacks: [log(folder)] });
    const path = join(folder, eventsFile);
    const whole = readFileSync(path);
    const spoilt = Buffer.from(whole);
    spoilt[whole.length - 10] ^= 1;
    writeFileSync(path, spoilt);
    log(folder)({ ...start, resumedAt: 4 });
    expect(eventsIn(folder).map((e) => e.step)).toEqual([0, 3]);
    for (const text of ["", "not an event file at all"]) {
      writeFileSync(path, text);
      log(folder)({ ...start, resumedAt: 4 });
      expect(eventsIn(folder)).toEqual([{ step: 0, version: "brain.Event:2", scalars: {} }]);
    }
    appendFileSync(path, whole);
    log(folder)({ ...start, resumedAt: 0 });
    expect(eventsIn(folder)).toHaveLength(1);
  });

  test("say when they cannot be written", () => {
    const folder = tempFolder();
    mkdirSync(join(folder, eventsFile));
    const start = { type: "start", epochs: 1, steps: 4, stepsPerEpoch: 4, parameters: 1, changed: [] } as const;
    expect(() => tensorBoardLog(folder)({ ...start, resumedAt: 0 })).toThrow(`${eventsFile}: cannot be written (`);
    expect(() => tensorBoardLog(folder, { every: 0 })).toThrow("every must be a positive integer, got 0");
  });
});
