import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { BatchNorm } from "../../src/nn/index.ts";
import { createModel, openCheckpointFile, rng, saveCheckpointFile } from "../../src/node.ts";
import { repmlp, tempFolder } from "./harness.ts";

const folder = tempFolder();
const training = join(folder, "train.pth");
const at = (name: string): string => join(folder, name);

/** A small network with random statistics, so that a wrong merge shows. */
beforeAll(async () => {
  const model = createModel("RepMLP-Mixer-28").initialize(3);
  for (const [path, m] of model.modules()) {
    if (!(m instanceof BatchNorm)) continue;
    const random = rng(1, path);
    for (const p of [m.weight, m.bias, m.runningMean, m.runningVar]) p?.set(p.data.map(() => 0.5 + random.next()));
  }
  await saveCheckpointFile(training, model.stateDict());
});

describe("the command line itself", () => {
  test("help lists every command; each has examples", async () => {
    const { code, stdout } = await repmlp(["--help"]);
    expect(code).toBe(0);
    for (const name of ["convert", "verify", "models", "summary", "selfcheck", "demo", "doctor"]) {
      expect(stdout).toContain(`  ${name} `);
      const own = await repmlp([name, "--help"]);
      expect(own.code).toBe(0);
      expect(own.stdout).toMatch(/^Examples:\n {2}repmlp /);
    }
  });

  test.for([
    [["frob"], /^error: unknown command 'frob'/],
    [["convrt", "a", "b"], /Did you mean convert/],
    [["convert", "--frob"], /^error: unknown option '--frob'/],
    [["convert", "only-one.pth"], /^error: missing required argument 'save'/],
    [["models", "--json", "--depth"], /^error: unknown option '--depth'/],
    [["demo", "--epochs", "0"], /Expected a whole number from 1/],
    [
      ["summary", "RepMLP-Res50-lite"],
      /^error: models: there is no "RepMLP-Res50-lite"\. Did you mean RepMLP-Res50-light-224/,
    ],
  ] as const)("%j is refused with exit code 2", async ([args, message]) => {
    const { code, stderr } = await repmlp(args);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  test("errors are JSON where results are", async () => {
    const { code, stdout } = await repmlp(["convert", "none.pth", "out.pth", "--json"], { cwd: folder });
    expect(code).toBe(1);
    expect(JSON.parse(stdout).error.message).toContain("none.pth");
  });
});

test("selfcheck: the paper's own check", async () => {
  const { code, stdout } = await repmlp(["selfcheck", "--seed", "4", "--json"]);
  expect(code).toBe(0);
  const result = JSON.parse(stdout);
  expect(result).toMatchObject({ passed: true });
  expect(result.squaredDifference).toBeGreaterThan(0);
  expect(result.squaredDifference).toBeLessThan(1e-9);
  expect((await repmlp(["selfcheck", "--tolerance", "1e-12"])).code).toBe(1);
});

test("models and summary state the published sizes without computing a value", async () => {
  const models = JSON.parse((await repmlp(["models", "*light*", "--json"])).stdout);
  expect(models).toHaveLength(1);
  expect(models[0]).toMatchObject({
    name: "RepMLP-Res50-light-224",
    train: { parameters: 87_038_248, macs: 3_301_703_680 },
    deploy: { parameters: 86_142_440, macs: 3_076_915_200 },
  });
  const { stdout } = await repmlp(["summary", "RepMLP-Res50-light-224", "--depth", "1"]);
  expect(stdout).toMatch(/stage3 \(Stage\) +\[1, 1024, 14, 14\] +55,418,368 +54,656,768/);
  expect((await repmlp(["models", "nothing*"])).code).toBe(1);
});

describe("convert and verify", () => {
  test("merges, verifies, and writes what verify finds equal", async () => {
    const { code, stdout } = await repmlp(["convert", training, at("deploy.safetensors"), "--explain"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/rep0 +RepMLP +merged: /);
    expect(stdout).toContain("RepMLP-Mixer-28: 6 blocks merged, 0 left");
    expect(stdout).toMatch(/verified: largest difference .* same class on 4 of 4/);
    const verified = await repmlp(["verify", training, at("deploy.safetensors"), "--json"]);
    expect(verified.code).toBe(0);
    expect(JSON.parse(verified.stdout)).toMatchObject({ passed: true, top1: { agree: 8, total: 8 } });
  });

  test(".pth and .safetensors hold the same values", async () => {
    await repmlp(["convert", training, at("a.pth"), "--no-verify"]);
    await repmlp(["convert", training, at("a.safetensors"), "--no-verify"]);
    using a = await openCheckpointFile(at("a.pth"));
    using b = await openCheckpointFile(at("a.safetensors"));
    expect([...a.entries.keys()]).toEqual([...b.entries.keys()]);
    for (const [key, t] of a.entries) expect(t.readSync()).toEqual(b.entries.get(key)!.readSync());
  });

  test("names the first block of a damaged file that differs", async () => {
    await repmlp(["convert", training, at("good.pth"), "--no-verify"]);
    using good = await openCheckpointFile(at("good.pth"));
    const entries = [...good.entries].map(([key, t]) =>
      key === "rep1.fc3.bias" ? ([key, t.readSync().map((v) => v + 0.5)] as const) : ([key, t] as const),
    );
    await saveCheckpointFile(at("bad.pth"), entries);
    const { code, stdout } = await repmlp(["verify", training, at("bad.pth")]);
    expect(code).toBe(1);
    expect(stdout).toMatch(/FAILED: .* the first block that differs is rep1/);
  });

  test("notices one value of a weight that is off by 1 %, and names it", async () => {
    await repmlp(["convert", training, at("good.pth"), "--no-verify"]);
    using good = await openCheckpointFile(at("good.pth"));
    const entries = [...good.entries].map(([key, t]) =>
      key === "rep1.fc3.weight"
        ? ([key, t.readSync().map((v, i) => (i === 1234 ? 1.01 * v : v))] as const)
        : ([key, t] as const),
    );
    await saveCheckpointFile(at("one.pth"), entries);
    const { code, stdout } = await repmlp(["verify", training, at("one.pth"), "--json"]);
    expect(code).toBe(1);
    const { passed, differs, weights } = JSON.parse(stdout);
    expect({ passed, differs }).toEqual({ passed: false, differs: null });
    expect(weights.differing).toMatchObject([{ key: "rep1.fc3.weight" }]);
  });

  test("refuses what is already converted, in one sentence", async () => {
    await repmlp(["convert", training, at("once.pth"), "--no-verify"]);
    const { code, stderr } = await repmlp(["convert", at("once.pth"), at("twice.pth")]);
    expect(code).toBe(1);
    expect(stderr.replace(/npm warn.*\n/g, "")).toMatch(
      /^error: .*once\.pth: holds the deploy form of RepMLP-Mixer-28, which is converted already\./,
    );
    expect(existsSync(at("twice.pth"))).toBe(false);
  });

  test.for([
    ["a missing file", "none.pth", /none\.pth.*(does not exist|no such file)/i],
    ["a text", "text.pth", /text\.pth: is neither a PyTorch \(\.pth\) nor a safetensors file/],
    ["another network", "other.pth", /other\.pth/],
  ] as const)("%s: one clean sentence, nothing written", async ([, name, message]) => {
    if (name === "text.pth") writeFileSync(at(name), "hello");
    if (name === "other.pth") await saveCheckpointFile(at(name), new Map([["w", rngTensor()]]));
    const { code, stderr } = await repmlp(["convert", at(name), at("never.pth")]);
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(existsSync(at("never.pth"))).toBe(false);
  });

  test("a folder that cannot be written leaves the source alone", async () => {
    const before = readFileSync(training);
    const { code, stderr } = await repmlp(["convert", training, join(training, "inside.pth")]);
    expect(code).toBe(1);
    expect(stderr).toContain("inside.pth");
    expect(readFileSync(training).equals(before)).toBe(true);
    expect(readdirSync(folder).filter((name) => name.includes(".tmp"))).toEqual([]);
  });
});

const rngTensor = () => createModel("RepMLP-Mixer-28").initialize(1).stateDict().get("linear.bias")!;

describe("demo", () => {
  const short = ["demo", "--epochs", "1", "--batch-size", "100"];

  test("Ctrl-C leaves a checkpoint, and --resume goes on from it to a complete result", async () => {
    const out = at("demo");
    const stopped = await repmlp([...short, "--out", out], { interruptAt: "images/s" });
    expect(stopped.code).toBe(130);
    expect(stopped.stderr).toContain(`--resume --out ${out}`);
    // After the training, too.
    const late = await repmlp([...short, "--out", out, "--resume"], { interruptAt: "converting" });
    expect(late).toMatchObject({ code: 130, stderr: expect.stringContaining(`--resume --out ${out}`) });
    expect(existsSync(join(out, "report.html"))).toBe(false);
    expect(existsSync(join(out, "last.safetensors"))).toBe(true);
    const { code, stdout, stderr } = await repmlp([...short, "--out", out, "--resume"]);
    expect(stderr).toMatch(/resuming at step \d+ of 60/);
    expect(code).toBe(0);
    expect(stdout).toMatch(/same class on 1000\/1000 test pictures/);
    for (const file of ["train.pth", "deploy.pth", "deploy.onnx", "report.html", "log.csv", "log.jsonl"])
      expect(existsSync(join(out, file)), file).toBe(true);
    const report = readFileSync(join(out, "report.html"), "utf8");
    expect(report).toContain("1000 of 1000");
    expect(report.match(/<svg/g)).toHaveLength(2);
    expect(report).not.toMatch(/(src|href)="https?:/);
  }, 120_000);

  test("a folder that cannot be written is refused at once", async () => {
    const { code, stderr } = await repmlp([...short, "--out", join(training, "inside")]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/Choose another folder/);
    expect(stderr).not.toMatch(/\n\s+at /);
  });
});
