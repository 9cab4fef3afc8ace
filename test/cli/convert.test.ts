import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { convertCheckpointFile } from "../../src/convert/node/checkpoint-file.ts";
import {
  convertToDeploy,
  createModel,
  modelInfo,
  openCheckpointFile,
  saveCheckpointFile,
  Tensor,
  type TensorSource,
  tensorBytes,
} from "../../src/node.ts";
import { withRandomState } from "../reparam/support.ts";
import { repmlp, tempFolder } from "./harness.ts";

const folder = tempFolder();
const at = (name: string): string => join(folder, name);
const training = at("train.safetensors");
const arch = "RepMLP-Mixer-28";
let state: ReadonlyMap<string, TensorSource>;

beforeAll(async () => {
  state = withRandomState(createModel(arch)).stateDict();
  await saveCheckpointFile(training, state, { metadata: { arch, note: "kept", "repmlp.training": "{}" } });
});

const left = (): string[] => readdirSync(folder).filter((name) => name.includes(".tmp"));

/** Converts in this process, without running the networks. */
async function converted(load: string, save: string, options?: Parameters<typeof convertCheckpointFile>[2]) {
  const report = await convertCheckpointFile(load, at(save), options);
  const file = await openCheckpointFile(at(save));
  return { report, file, tensor: (key: string) => file.entries.get(key)!.readSync() };
}

describe("element types", () => {
  test.for(["float16", "bfloat16", "float64"] as const)("to %s: merged exactly, rounded once", async (dtype) => {
    const exact = await converted(training, "exact.safetensors", { dtype: "float64" });
    const { file, tensor } = await converted(training, `${dtype}.safetensors`, { dtype });
    for (const [key, { dtype: found }] of file.entries) {
      expect(found).toBe(dtype);
      const [actual, expected] = [tensor(key), exact.tensor(key).cast(dtype)].map((t) => Buffer.from(tensorBytes(t)));
      expect(actual.equals(expected), key).toBe(true);
    }
  });

  test("a checkpoint in half precision stays one, with statistics in float32 where they were", async () => {
    const half = [...state].map(
      ([key, t]) => [key, /conv\.weight|fc\d\.weight|linear/.test(key) ? t.readSync().cast("float16") : t] as const,
    );
    await saveCheckpointFile(at("half.safetensors"), half);
    const { file } = await converted(at("half.safetensors"), "half-deploy.safetensors");
    expect(file.entries.get("rep0.fc3.weight")!.dtype).toBe("float16");
    expect(file.entries.get("fc0.conv.bias")!.dtype).toBe("float32");
  });

  test("quantized weights are refused", async () => {
    const entries = [...state].map(
      ([key, t]) => [key, key === "linear.weight" ? t.readSync().cast("int8") : t] as const,
    );
    await saveCheckpointFile(at("int8.safetensors"), entries);
    await expect(converted(at("int8.safetensors"), "never.pth")).rejects.toThrow(/"linear.weight" is int8/);
    expect(existsSync(at("never.pth"))).toBe(false);
  });

  test.for(["float16", "bfloat16"] as const)("a %s checkpoint is compared by its own type", async (dtype) => {
    const cast = [...state].map(([key, t]) => [key, key.endsWith("tracked") ? t : t.readSync().cast(dtype)] as const);
    await saveCheckpointFile(at(`own-${dtype}.pth`), cast);
    const { code, stdout } = await repmlp(["convert", at(`own-${dtype}.pth`), at(`own-${dtype}-deploy.pth`), "--json"]);
    expect(code).toBe(0);
    const { verification } = JSON.parse(stdout);
    expect(verification.tolerance).toBeGreaterThan(1e-3);
    expect(verification.maxRel).toBeLessThan(verification.tolerance / 10);
  });

  test("on the command line, with the tolerance of the type", async () => {
    const { code, stdout } = await repmlp([
      "convert",
      training,
      at("cli-half.safetensors"),
      "--dtype",
      "float16",
      "--json",
    ]);
    expect(code).toBe(0);
    const { verification } = JSON.parse(stdout);
    expect(verification.maxRel).toBeLessThan(verification.tolerance);
    expect(verification.maxRel).toBeGreaterThan(1e-6);
  });
});

describe("what comes along", () => {
  test("metadata, and the preprocessing that belongs to the weights", async () => {
    const { file } = await converted(training, "meta.safetensors");
    const { preprocessing, ...rest } = file.metadata;
    expect(rest).toEqual({ format: "pt", arch, form: "deploy", note: "kept" });
    expect(JSON.parse(preprocessing)).toEqual(modelInfo(arch).preprocessing({}));
  });

  test("preprocessing of the checkpoint's own goes before the architecture's", async () => {
    const own = JSON.stringify({ ...modelInfo(arch).preprocessing({}), mean: [0.5] });
    await saveCheckpointFile(at("own.safetensors"), state, { metadata: { preprocessing: own } });
    const { file } = await converted(at("own.safetensors"), "own-deploy.safetensors");
    expect(file.metadata.preprocessing).toBe(own);
  });

  test("prefixes and the optimizer's state do not, and that is said", async () => {
    const momentum = [...state].map(([key, t]) => [`optimizer.momentum:${key}`, t] as const);
    await saveCheckpointFile(
      at("run.safetensors"),
      [...[...state].map(([key, t]) => [`module.${key}`, t] as const), ...momentum],
      { metadata: { note: "x" } },
    );
    const { code, stderr } = await repmlp(["convert", at("run.safetensors"), at("run.pth"), "--no-verify"]);
    expect(code).toBe(0);
    expect(stderr).toContain('a leading "module." was taken off the keys');
    expect(stderr).toContain(`${state.size} tensors of the optimizer were left out`);
    using file = await openCheckpointFile(at("run.pth"));
    expect(file.metadata).toMatchObject({ note: "x", arch, form: "deploy" });
    const quiet = await repmlp(["convert", at("run.safetensors"), at("run.pth"), "--no-verify", "--quiet"]);
    expect(quiet.stderr).toBe("");
  });

  test("the number of classes is found from the head", async () => {
    const seven = withRandomState(createModel(arch, { numClasses: 7 })).stateDict();
    await saveCheckpointFile(at("seven.pth"), seven);
    const { stdout } = await repmlp(["convert", at("seven.pth"), at("seven-deploy.pth"), "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ arch, numClasses: 7, blocks: { merged: 6, left: 0 } });
  });
});

describe("refusals", () => {
  test.for([
    ["the file itself", [training, training], 2, /is the training checkpoint itself, which would be lost/],
    ["the file itself through a link", [training, "link.safetensors"], 2, /is the training checkpoint itself/],
    ["an ending that says nothing", [training, "out.xyz"], 2, /out\.xyz: its ending does not say which format/],
    ["a folder to read", [".", "out.pth"], 1, /is not a file/],
    ["a folder to write", [training, "sub.pth"], 1, /sub\.pth/],
    ["a folder that is not there", [training, "none/out.pth"], 1, /folder .*none does not exist/],
    [
      "another architecture",
      [training, "out.pth", "-a", "RepMLP-Res50-light-224"],
      1,
      /does not hold RepMLP-Res50-light-224/,
    ],
    ["an unknown architecture", [training, "out.pth", "-a", "RepMLP-Mixr-28"], 2, /Did you mean RepMLP-Mixer-28/],
    ["another image size", [training, "out.pth", "--image-size", "56"], 1, /other shapes/],
  ] as const)("%s", async ([, args, exitCode, message]) => {
    mkdirSync(at("sub.pth"), { recursive: true });
    if (!existsSync(at("link.safetensors"))) symlinkSync(training, at("link.safetensors"));
    const { code, stdout, stderr } = await repmlp(["convert", ...args], { cwd: folder });
    expect(stderr).toMatch(message);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect([code, stdout]).toEqual([exitCode, ""]);
    expect(existsSync(at("out.pth"))).toBe(false);
    expect(left()).toEqual([]);
  });

  test("a damaged tensor stops the conversion; what was there stays", async () => {
    await saveCheckpointFile(at("damaged.pth"), state);
    const bytes = readFileSync(at("damaged.pth"));
    bytes[Math.floor(bytes.length / 2)] ^= 1;
    writeFileSync(at("damaged.pth"), bytes);
    writeFileSync(at("before.pth"), "before");
    const { code, stderr } = await repmlp(["convert", at("damaged.pth"), at("before.pth"), "--no-verify"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/has CRC-32 .* The file is damaged/);
    expect(readFileSync(at("before.pth"), "utf8")).toBe("before");
    expect(left()).toEqual([]);
  });
});

describe("interruption", () => {
  test("Ctrl-C leaves nothing half-written", async () => {
    const { code, stderr } = await repmlp(["convert", training, at("interrupted.pth")], {
      interruptAt: "comparing both forms",
    });
    expect(code).toBe(130);
    expect(stderr).toContain("error: stopped; nothing was left half-written.");
    expect(existsSync(at("interrupted.pth"))).toBe(false);
    expect(left()).toEqual([]);
  });

  test("in the middle of the file too", async () => {
    const controller = new AbortController();
    const onTensor = (_: string, i: number): void => {
      if (i === 7) controller.abort();
    };
    await expect(converted(training, "middle.pth", { signal: controller.signal, onTensor })).rejects.toThrow(
      "was stopped before tensor",
    );
    expect(existsSync(at("middle.pth"))).toBe(false);
    expect(left()).toEqual([]);
  });
});

describe("refused by name and reason, and nothing is written", () => {
  const without = (pattern: RegExp) => [...state].filter(([key]) => !pattern.test(key));
  const merged = () => convertToDeploy(withRandomState(createModel(arch)).eval()).stateDict();
  const table: readonly (readonly [
    what: string,
    entries: () => readonly (readonly [string, TensorSource])[],
    options: readonly string[],
    message: RegExp,
  ])[] = [
    [
      "norms in training mode",
      () => without(/running_|tracked/),
      [],
      /no running statistics .* no merged form is equal/,
    ],
    [
      "a half-merged file",
      () => [...without(/^rep1\./), ...[...merged()].filter(([key]) => key.startsWith("rep1."))],
      [],
      /RepMLP-Mixer-28 half merged: of \d+ blocks 1 are merged\. Block rep1 is merged\./,
    ],
    [
      "an unknown prefix",
      () => [...state].map(([key, t]) => [`net.${key}`, t] as const),
      ["--prefix", "nett."],
      /no key begins with "nett\."/,
    ],
    [
      "weights of another size, as another stride or width would have",
      () =>
        [...state].map(([key, t]) => [key, key === "linear.weight" ? Tensor.zeros("float32", [10, 7]) : t] as const),
      ["--arch", arch],
      /linear\.weight/,
    ],
  ];

  test.for(table)("%s", async ([what, entries, options, message]) => {
    const [load, save] = [at(`${what.slice(0, 9)}.safetensors`), at("refused.pth")];
    await saveCheckpointFile(load, entries());
    const { code, stderr } = await repmlp(["convert", load, save, "--no-verify", ...options]);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(message);
    expect(existsSync(save)).toBe(false);
  });
});
