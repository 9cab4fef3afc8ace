import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { csvHeader, epochLine, fileLogs, folderStore, loggedLosses, type TrainingEvent } from "../../src/node.ts";
import { tempFolder, train } from "./support.ts";

const linesOf = (folder: string, name: string): string[] =>
  readFileSync(join(folder, name), "utf8").trimEnd().split("\n");
const eventsOf = (folder: string): TrainingEvent[] =>
  linesOf(folder, "log.jsonl").map((line) => JSON.parse(line) as TrainingEvent);
const column = (folder: string, name: string): string[] => {
  const [header, ...lines] = linesOf(folder, "log.csv");
  return lines.map((line) => line.split(",")[header.split(",").indexOf(name)]);
};
const steps = (folder: string): number[] => eventsOf(folder).flatMap((e) => (e.type === "step" ? [e.step] : []));
const allSteps = Array.from({ length: 12 }, (_, i) => i + 1);

describe("file logs", () => {
  test("hold every event as JSON, every epoch as CSV with timm's names", async () => {
    const folder = tempFolder();
    const { events, summary } = await train({ callbacks: [fileLogs(folder)] });
    expect(eventsOf(folder)).toEqual(JSON.parse(JSON.stringify(events)));
    expect(linesOf(folder, "log.csv")[0]).toBe(csvHeader());
    expect(csvHeader()).toMatch(/^epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,/);
    expect(column(folder, "epoch")).toEqual(["1", "2", "3"]);
    const top1 = summary.history.map((r) => String(Number((100 * r.validationTop1!).toPrecision(6))));
    expect(column(folder, "eval_top1")).toEqual(top1);
  });

  test("are continued without repeats", async () => {
    const folder = tempFolder();
    const store = folderStore(folder);
    await train({ store, callbacks: [fileLogs(folder)] }, 6);
    await train({ store, resume: true, callbacks: [fileLogs(folder)] });
    expect(steps(folder)).toEqual(allSteps);
    expect(column(folder, "epoch")).toEqual(["1", "2", "3"]);
    expect(eventsOf(folder).filter((e) => e.type === "start")).toHaveLength(2);
    expect(loggedLosses(folder)).toHaveLength(12);
  });

  test("forget what a crash has undone, cut-off lines too", async () => {
    const folder = tempFolder();
    const store = folderStore(folder);
    await train({ store, callbacks: [fileLogs(folder)] }, 6);
    const crash = (event: TrainingEvent): void => {
      if (event.type === "epoch" && event.epoch === 3) throw new Error("pulled the plug");
    };
    await expect(train({ store, resume: true, callbacks: [fileLogs(folder), crash] })).rejects.toThrow("plug");
    expect(column(folder, "epoch")).toEqual(["1", "2", "3"]);
    writeFileSync(join(folder, "log.csv"), "4,0.1,0.", { flag: "a" });
    writeFileSync(join(folder, "log.jsonl"), '{"type":"step","st', { flag: "a" });
    await train({ store, resume: true, callbacks: [fileLogs(folder)] });
    expect(column(folder, "epoch")).toEqual(["1", "2", "3"]);
    expect(steps(folder)).toEqual(allSteps);
  });

  test("begin anew with a new run", async () => {
    const folder = tempFolder();
    for (let i = 0; i < 2; i++) await train({ epochs: 1, callbacks: [fileLogs(folder)] });
    expect(steps(folder)).toEqual([1, 2, 3, 4]);
    expect(column(folder, "epoch")).toEqual(["1"]);
  });

  test("do not mix with files of other columns, and say when they cannot be written", async () => {
    const folder = tempFolder();
    const start = { type: "start", epochs: 1, steps: 4, stepsPerEpoch: 4, parameters: 1, changed: [] } as const;
    writeFileSync(join(folder, "log.csv"), "epoch,loss\n1,2\n");
    expect(() => fileLogs(folder)({ ...start, resumedAt: 2 })).toThrow("log.csv: has other columns than epoch,");
    mkdirSync(join(folder, "taken", "log.csv"), { recursive: true });
    expect(() => fileLogs(join(folder, "taken"))({ ...start, resumedAt: 0 })).toThrow("log.csv: cannot be written (");
    expect(() => fileLogs(join(folder, "log.csv"))).toThrow("log.csv: cannot be written (EEXIST)");
  });
});

test("an epoch as a line for people", () => {
  const event = {
    type: "epoch",
    epoch: 3,
    epochs: 10,
    step: 12,
    trainLoss: 0.51234,
    trainTop1: 0.8,
    validationLoss: 0.6,
    validationTop1: 0.75,
    best: true,
    lr: 0.1,
    seconds: 2.04,
    imagesPerSecond: 1234.5,
    dataWait: 0.01,
  } as const;
  expect(epochLine(event)).toBe(
    "epoch  3/10  loss 0.5123  top-1 80.00 %  test loss 0.6000  top-1 75.00 % (best)  1235 images/s  2.0 s",
  );
});
