import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Loaders, runProgram } from "../../src/cli/program.ts";
import { createModel, openCheckpointFile, saveCheckpointFile, type TensorSource } from "../../src/node.ts";
import { deployForm } from "../../src/reparam/index.ts";
import { fastvitInTimm, mobileoneInTimm, repvggInTimm, repvitInTimm } from "../models/foreign-names.ts";
import { type Narrow, narrow } from "../models/narrow.ts";
import { withRandomState } from "../reparam/support.ts";
import { type Outcome, tempFolder } from "./harness.ts";

/*
 * Checkpoints of the whole family on the command line, in the authors' names and in timm's where it has the network. The
 * program runs in this process: starting it takes longer than what it does.
 */

const loaders: Partial<Loaders> = {
  convert: () => import("../../src/cli/commands/convert.ts"),
  verify: () => import("../../src/cli/commands/verify.ts"),
  summary: () => import("../../src/cli/commands/summary.ts"),
  export: () => import("../../src/cli/commands/export.ts"),
  predict: () => import("../../src/cli/commands/predict.ts"),
  test: () => import("../../src/cli/commands/test.ts"),
  train: () => import("../../src/cli/commands/train.ts"),
};

async function repmlp(...argv: readonly string[]): Promise<Outcome> {
  const said = { stdout: "", stderr: "" };
  const stream = (name: keyof typeof said) => ({
    write: (text: string) => {
      said[name] += text;
      return true;
    },
  });
  const streams = { stdout: stream("stdout"), stderr: stream("stderr") };
  const code = await runProgram(argv, loaders as Loaders, () => "0", streams as never);
  return { code, ...said };
}

const folder = tempFolder();
const at = (name: string): string => join(folder, name);

type State = ReadonlyMap<string, TensorSource>;

/** The network of a row. */
const build = ({ arch, options }: Narrow) =>
  withRandomState(createModel(arch, { ...options, imageSize: 32, numClasses: 10 })).eval();

const modelOptions = (options: object): string[] =>
  Object.entries(options).flatMap(([name, value]) => ["--model-option", `${name}=${JSON.stringify(value)}`]);

/** What says on the command line which network a row has. */
const options = ({ options }: Narrow): string[] => [
  ...["--image-size", "32", "--num-classes", "10"],
  ...modelOptions(options),
];

const save = async (name: string, entries: State, more: object = {}): Promise<string> => {
  await saveCheckpointFile(at(name), entries, more);
  return at(name);
};

/** Names of timm by the architecture, where it has it under others than the authors'. */
const timm: Readonly<Record<string, (key: string) => string>> = {
  "RepVGG-A0": repvggInTimm,
  "MobileOne-s0": mobileoneInTimm,
  "RepViT-M0.9": (key) => repvitInTimm(key, [1, 2, 5, 8]),
  "FastViT-T8": (key) => fastvitInTimm(key, [1, 3, 5]),
};

const files = narrow.flatMap((row) => [
  { ...row, naming: "the authors'", rename: (key: string) => key },
  ...(timm[row.arch] ? [{ ...row, naming: "timm's", rename: timm[row.arch] }] : []),
]);

test.for(files)("$arch in $naming names is converted with an account of it, verified, and shown", async (row) => {
  const { arch, naming, rename } = row;
  const model = build(row);
  const state = new Map([...model.stateDict()].map(([key, t]) => [rename(key), t] as const));
  const [train, deploy] = [await save(`${arch}-${naming}.pth`, state), at(`${arch}-${naming}-deploy.safetensors`)];

  const converted = await repmlp("convert", train, deploy, "-a", arch, ...options(row), "--explain");
  expect(converted).toMatchObject({ code: 0, stderr: expect.stringContaining("comparing both forms") });
  const blocks: string[] = [];
  const merged = deployForm(model, (b) => b.merged && blocks.push(b.note));
  for (const note of blocks) expect(converted.stdout).toContain(`merged: ${note}`);
  expect(converted.stdout).toMatch(/verified: .* same class on 4 of 4 random inputs/);
  using file = await openCheckpointFile(deploy);
  expect([...file.entries.keys()]).toEqual([...merged.stateDict().keys()]);

  const verified = await repmlp("verify", train, deploy, "-a", arch, ...options(row));
  expect(verified).toMatchObject({ code: 0, stdout: expect.stringMatching(/weights: \d+ tensors are the merge's/) });

  const shown = await repmlp("summary", arch, ...options(row));
  expect(shown).toMatchObject({ code: 0, stdout: expect.stringMatching(/training form .*\n *deploy form /) });
});

test.for(narrow.filter(({ arch }) => timm[arch]))("$arch is written under timm's names with --names", async (row) => {
  const { arch } = row;
  const model = build(row);
  const [train, deploy] = [await save(`${arch}-names.pth`, model.stateDict()), at(`${arch}-names-timm.safetensors`)];
  const converted = await repmlp("convert", train, deploy, "-a", arch, ...options(row), "--names", "timm");
  expect(converted).toMatchObject({ code: 0 });
  using file = await openCheckpointFile(deploy);
  const merged = deployForm(model).stateDict();
  expect([...file.entries.keys()]).toEqual([...merged.keys()].map(timm[arch]));
  // It is the same network to those who read it here.
  const verified = await repmlp("verify", train, deploy, "-a", arch, ...options(row));
  expect(verified).toMatchObject({ code: 0 });
});

/** Ten classes of two pictures each, in `train` and in `val`. */
async function writePictures(data: string): Promise<string> {
  const classes = Array.from({ length: 10 }, (_, i) => `class${i}`);
  for (const part of ["train", "val"])
    for (const [i, name] of classes.entries()) {
      mkdirSync(join(data, part, name), { recursive: true });
      for (const j of [0, 1]) {
        const background = { r: 25 * i, g: 80 * j, b: 250 - 25 * i };
        const create = { width: 32, height: 32, channels: 3, background } as const;
        await sharp({ create })
          .png()
          .toFile(join(data, part, name, `${j}.png`));
      }
    }
  return data;
}

describe("a checkpoint of the family goes into every command", () => {
  // Another start of the program would be one of this test. Other files' tests run in the same process.
  const before = process.env.REPMLP_NO_REEXEC;
  beforeAll(() => {
    process.env.REPMLP_NO_REEXEC = "1";
  });
  afterAll(() => {
    if (before === undefined) delete process.env.REPMLP_NO_REEXEC;
    else process.env.REPMLP_NO_REEXEC = before;
  });

  // One with timm's names, one with squeeze-and-excitation, one that merges as a whole, one with partitions. FAMILY=all: every one.
  const some = ["RepVGG-A0", "RepVGGplus-L2pse", "VanillaNet-5", "RepMLPNet-T224"];
  const rows = process.env.FAMILY === "all" ? narrow : narrow.filter(({ arch }) => some.includes(arch));

  test.for(rows)("$arch", async (row) => {
    const { arch } = row;
    const data = await writePictures(at("pictures"));
    const file = await save(`${arch}-all.pth`, build(row).stateDict());
    // Classes are counted from the head.
    const said = ["-a", arch, ...modelOptions({ ...row.options, imageSize: 32 })];
    const onnx = at(`${arch}.onnx`);
    expect(await repmlp("export", file, onnx, ...said)).toMatchObject({ code: 0 });
    const [a, b] = [
      await repmlp("predict", file, join(data, "val/class3/0.png"), "--json", ...said),
      await repmlp("predict", onnx, join(data, "val/class3/0.png"), "--json"),
    ];
    const best = ({ stdout }: Outcome): unknown => JSON.parse(stdout).topK[0].index;
    expect(best(a)).toBe(best(b));
    const tested = await repmlp("test", data, "train", file, ...said);
    expect(tested).toMatchObject({ code: 0, stdout: expect.stringMatching(/Acc@1/) });
    const recipe = at(`${arch}.json`);
    const settings = { epochs: 1, batchSize: 10, lr: 1e-3, optimizer: { name: "sgd" } };
    writeFileSync(recipe, JSON.stringify({ ...settings, arch, model: { ...row.options, imageSize: 32 } }));
    const trained = await repmlp("train", data, "--recipe", recipe, "--init", file, "--out", at(`${arch}-run`));
    expect(trained).toMatchObject({ code: 0, stdout: expect.stringMatching(/epoch 1\/1/) });
  });
});

describe("refused by name and with the reason", () => {
  const convert = async (row: Narrow, file: string, ...more: string[]): Promise<Outcome> =>
    repmlp("convert", file, at("never.pth"), "-a", row.arch, ...options(row), ...more);

  /** Blocks of a network that hold something once they are merged. */
  const blocksOf = (row: Narrow): string[] => {
    const paths: string[] = [];
    const merged = deployForm(build(row), ({ merged, path }) => merged && path && paths.push(path));
    const keys = [...merged.stateDict().keys()];
    return paths.filter((path) => keys.some((key) => key.startsWith(`${path}.`)));
  };

  // VanillaNet merges as a whole.
  const inBlocks = narrow.filter((row) => blocksOf(row).length > 1);

  test("names that the family does not have: those that it has", async () => {
    const row = narrow.find(({ arch }) => arch === "RepVGG-A0") as Narrow;
    const file = await save("names.pth", build(row).stateDict());
    const refused = await convert(row, file, "--names", "torchvision");
    expect(refused).toMatchObject({ code: 2, stdout: "" });
    expect(refused.stderr).toContain(
      'models: RepVGG has no names "torchvision" for its keys; there are repvgg, timm. Choose one of them with --names.',
    );
  });

  test("all but VanillaNet consist of blocks", () => {
    expect(narrow.filter((row) => !inBlocks.includes(row)).map(({ arch }) => arch)).toEqual(["VanillaNet-5"]);
  });

  test.for(inBlocks)("$arch, half merged: the block", async (row) => {
    const model = build(row);
    const [block] = blocksOf(row);
    const within = ([key]: readonly [string, TensorSource]): boolean => key.startsWith(`${block}.`);
    const half = new Map([
      ...[...model.stateDict()].filter((entry) => !within(entry)),
      ...[...deployForm(model).stateDict()].filter(within),
    ]);
    const { code, stderr } = await convert(row, await save(`${row.arch}-half.pth`, half));
    expect(code).toBe(1);
    expect(stderr).toContain(`holds ${row.arch} half merged`);
    expect(stderr).toContain(`Block ${block} is merged`);
  });

  test.for(narrow)("$arch, without running statistics: a norm of them", async (row) => {
    const entries = [...build(row).stateDict()].filter(([key]) => !/running_(mean|var)$/.test(key));
    const { code, stderr } = await convert(row, await save(`${row.arch}-statistics.pth`, new Map(entries)));
    expect(code).toBe(1);
    expect(stderr).toMatch(/its batch norms have no running statistics \(\S+running_mean/);
  });

  describe("files of RepVGG and VanillaNet", () => {
    const [repvgg, vanilla] = ["RepVGG-A0", "VanillaNet-5"].map((arch) => narrow.find((row) => row.arch === arch)!);
    let file: string;
    beforeAll(async () => {
      file = await save("plain.pth", build(repvgg).stateDict());
    });

    test("a prefix that no key has", async () => {
      const { code, stderr } = await convert(repvgg, file, "--prefix", "net.");
      expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining('no key begins with "net."') });
    });

    test("another architecture", async () => {
      const { code, stderr } = await convert(vanilla, file);
      expect(code).toBe(1);
      expect(stderr).toContain("plain.pth: does not hold VanillaNet-5");
    });

    test("a non-linearity between the convolutions", async () => {
      const metadata = { coefficients: JSON.stringify({ slope: 0.5 }) };
      const bent = await save("bent.safetensors", build(vanilla).stateDict(), { metadata });
      const { code, stderr } = await convert(vanilla, bent);
      expect(code).toBe(1);
      expect(stderr).toMatch(/slope .* is 0\.5/);
    });
  });
});
