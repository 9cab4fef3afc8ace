import { existsSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { createModel, openCheckpointFile, saveCheckpointFile } from "../../src/node.ts";
import { tinyRecipe, writeCifar } from "../recipes/support.ts";
import { repmlp, tempFolder } from "./harness.ts";

const folder = tempFolder();
const at = (name: string): string => join(folder, name);

const write = (name: string, changes: object = {}): string => {
  writeFileSync(at(name), JSON.stringify({ ...tinyRecipe, ...changes }));
  return at(name);
};

beforeAll(() => {
  writeCifar(at("cifar"));
  write("recipe.json");
});

const train = (...args: string[]): ReturnType<typeof repmlp> =>
  repmlp(["train", at("cifar"), "--recipe", at("recipe.json"), ...args], { cwd: folder });

describe("train", () => {
  test("by a recipe: logs, curves, weights; the final ones convert", async () => {
    const { code, stdout, stderr } = await train("--out", "run");
    expect(stderr).not.toContain("error");
    expect(code).toBe(0);
    expect(stdout).toMatch(/epoch 2\/2 .*top-1/);
    const [head, ...lines] = readFileSync(at("run/log.csv"), "utf8").trim().split("\n");
    expect(head).toMatch(/^epoch,/);
    expect(lines).toHaveLength(2);
    expect(readFileSync(at("run/curves.svg"), "utf8")).toMatch(/^<svg[\s\S]*cross entropy[\s\S]*top-1/);
    using file = await openCheckpointFile(at("run/train.pth"));
    createModel(tinyRecipe.arch, tinyRecipe.model).loadStateDict(file.entries);
    expect(existsSync(at("run/best.safetensors"))).toBe(true);
  });

  test("with the options of a step: an average that readers take, curves for TensorBoard, an early end", async () => {
    write("options.json", {
      ...{ epochs: 9, lr: 1e-12, clipNorm: 1, accumulate: 2, patience: 1, preciseBatchNorm: { batches: 2 } },
      ...{ ema: { decay: 0.9 }, schedule: { kind: "linear" } },
    });
    const { code, stdout, stderr } = await train("--recipe", at("options.json"), "--out", "options");
    expect(code).toBe(0);
    expect(stderr).toMatch(/ended after epoch \d: the accuracy has not risen for 1 epochs/);
    expect(stdout).toContain("average  options/ema.pth");
    using file = await openCheckpointFile(at("options/ema.pth"));
    expect(file.wrapper).toBe("model_ema");
    createModel(tinyRecipe.arch, tinyRecipe.model).loadStateDict(file.entries);
    const events = readFileSync(at("options/events.out.tfevents.repmlp")).toString("latin1");
    expect(events).toContain("brain.Event:2");
    expect(events).toContain("val/top1");
  });

  test("a rate that makes the loss explode: the good checkpoint is kept and named", async () => {
    const constant = write("explode.json", { schedule: { kind: "constant" }, epochs: 1 });
    await train("--recipe", constant, "--out", "explode");
    const before = readFileSync(at("explode/last.safetensors"));
    const again = ["--recipe", constant, "--out", "explode", "--resume", "--epochs", "2", "--lr", "1e30"];
    const { code, stderr } = await train(...again);
    expect(stderr).toMatch(/step \d.*in epoch 2.*The last good checkpoint is explode\/last\.safetensors \(step 3\)/);
    expect(code).toBe(1);
    expect(readFileSync(at("explode/last.safetensors")).equals(before)).toBe(true);
    const other = write("other.json", { model: { ...tinyRecipe.model, channels: [4, 4, 8] }, epochs: 2 });
    const refused = await train("--recipe", other, "--out", "explode", "--resume");
    expect(refused.stderr).toMatch(
      /explode\/last\.safetensors: .*has shape \[.*\] in the file, the model expects .* It is of RepMLP-CIFAR10-pure-MLP\./,
    );
    expect(refused.code).toBe(1);
  });

  test("a run resumed after one epoch ends with the same weights to the bit", async () => {
    // A constant rate, so that the first epoch does not depend on how many there are.
    write("constant.json", { schedule: { kind: "constant" } });
    const go = (out: string, ...args: string[]): ReturnType<typeof repmlp> =>
      train("--recipe", at("constant.json"), "--out", out, ...args);
    await go("whole");
    await go("parts", "--epochs", "1");
    const { stderr } = await go("parts", "--epochs", "2", "--resume");
    expect(stderr).toContain("resuming at step 3 of 6");
    expect(stderr).toContain("changed since then: epochs: 1 → 2");
    expect(readFileSync(at("parts/train.pth")).equals(readFileSync(at("whole/train.pth")))).toBe(true);
  });

  test("fine-tuning: another head, frozen parts keep their values", async () => {
    const before = createModel(tinyRecipe.arch, { ...tinyRecipe.model, numClasses: 7 }).initialize(5);
    await saveCheckpointFile(at("seven.pth"), before.stateDict());
    const refused = await train("--init", "seven.pth", "--out", "tuned");
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/seven\.pth: .*linear\.weight has shape \[7, 6\].*--allow-mismatch "linear\.\*"/);
    const args = ["--init", "seven.pth", "--allow-mismatch", "linear.*", "--freeze", "stage1.*", "--out", "tuned"];
    const { code, stderr } = await train(...args);
    expect(code).toBe(0);
    expect(stderr).toContain("not taken from seven.pth: linear.weight, linear.bias");
    using file = await openCheckpointFile(at("tuned/train.pth"));
    const value = async (key: string): Promise<unknown> => (await file.entries.get(key)!.read()).data;
    const old = before.stateDict();
    expect(await value("stage1.fc1.conv.weight")).toEqual(old.get("stage1.fc1.conv.weight")!.readSync().data);
    expect(await value("stage2.fc1.conv.weight")).not.toEqual(old.get("stage2.fc1.conv.weight")!.readSync().data);
  });

  test.for([
    [["--recipe", "none"], /"none" is neither a file nor a recipe/, 2],
    [["--freeze", "head.*"], /freeze: "head\.\*" fits no parameter/, 2],
    [["--arch", "RepMLP-Mixer-28"], /pictures are 3 x 32 x 32, RepMLP-Mixer-28 takes 1 x 28 x 28/, 1],
    [["--lr", "1e30"], /loss is .* at step \d.*Lower the learning rate/, 1],
  ] as const)("%j is refused", async ([args, message, expected]) => {
    const { code, stderr } = await train(...args, "--out", "bad");
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(code).toBe(expected);
  });

  test.for([
    ["a label out of range", (path: string) => patch(path, 3 * 3073, 17), /data_batch_1\.bin: record 3.*17/],
    ["a file cut short", (path: string) => truncateSync(path, 5000), /data_batch_1\.bin: 5000 bytes are not whole/],
  ] as const)("%s names file and record", async ([name, spoil, message]) => {
    const data = writeCifar(at(name));
    spoil(join(data, "data_batch_1.bin"));
    const { code, stderr } = await repmlp(["train", data, "--recipe", at("recipe.json"), "--out", at("bad")]);
    expect(stderr).toMatch(message);
    expect(code).toBe(1);
  });

  test("a folder that holds no data set", async () => {
    const { code, stderr } = await repmlp(["train", at("run"), "--recipe", at("recipe.json")], { cwd: folder });
    expect(stderr).toMatch(/run: holds no data set\. Expected CIFAR-10/);
    expect(code).toBe(1);
  });
});

function patch(path: string, at: number, value: number): void {
  const bytes = readFileSync(path);
  bytes[at] = value;
  writeFileSync(path, bytes);
}

describe("experiment", () => {
  const run = (...args: string[]): ReturnType<typeof repmlp> =>
    repmlp(["experiment", "cifar10", "--data", at("cifar"), "--out", at("experiment"), ...args], { cwd: folder });

  test("variants in a table beside the paper's figures, and a plot; finished ones are kept", async () => {
    const args = ["--epochs", "1", "--variants", "conv9", "wide-convnet"];
    const { code, stdout } = await run(...args);
    expect(code).toBe(0);
    expect(stdout).toMatch(/Wide ConvNet +\d+\.\d\d +\d+\.\d\d +0 +438634 +437610 +65\.111 +65\.111 +91\.99/);
    const table = readFileSync(at("experiment/results.md"), "utf8");
    expect(table.trim().split("\n")).toHaveLength(4);
    expect(readFileSync(at("experiment/accuracy.svg"), "utf8")).toContain("wide-convnet");
    const before = readFileSync(at("experiment/results.json"), "utf8");
    expect(JSON.parse(before)[0].differing).toEqual([]);
    expect((await run(...args)).code).toBe(0);
    expect(readFileSync(at("experiment/results.json"), "utf8")).toBe(before);
  });

  test.for([
    [["--epochs", "2"], /holds an experiment with epochs 1, this one has epochs 2/],
    [["--variants", "mlp"], /there is no variant "mlp"\. There are pure-mlp, /],
  ] as const)("%j is refused", async ([args, message]) => {
    const { code, stderr } = await run(...args);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
  });
});
