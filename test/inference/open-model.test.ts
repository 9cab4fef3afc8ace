import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  createModel,
  openCheckpointFile,
  openModelFile,
  saveCheckpointFile,
  type TensorSource,
} from "../../src/node.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";

/*
 * Files as trainers, compilers and model libraries leave them: one function opens a network from all of them, and says
 * what it took.
 */

const folder = mkdtempSync(join(tmpdir(), "repmlp-open-"));
const at = (name: string): string => join(folder, name);
const arch = "RepMLP-Mixer-28";
const model = { imageSize: 8, partition: 2, channels: [4, 8, 8] };
const state = withRandomState(createModel(arch, model)).stateDict();
const head = state.get("linear.bias")!.readSync().data;

type Rename = (key: string) => string;
const save = async (
  name: string,
  rename: Rename,
  options: object = {},
  extra: [string, TensorSource][] = [],
): Promise<string> => {
  const entries = [...state].map(([key, t]) => [rename(key), t] as const);
  await saveCheckpointFile(at(name), [...entries, ...extra], options);
  return at(name);
};
const other = state.get("linear.bias")!;
const withPrefix =
  (prefix: string): Rename =>
  (key) =>
    `${prefix}${key}`;

describe("what stands before or within the keys is taken away where they fit then, and that is told", () => {
  const table: readonly [name: string, rename: Rename, remarks: readonly string[]][] = [
    ["plain", withPrefix(""), []],
    ["DataParallel", withPrefix("module."), ['a leading "module." was taken off the keys']],
    ["torch.compile", withPrefix("_orig_mod."), ['"_orig_mod." was taken out of the keys']],
    [
      "DataParallel of torch.compile",
      withPrefix("module._orig_mod."),
      ['a leading "module." was taken off the keys', '"_orig_mod." was taken out of the keys'],
    ],
    [
      "torch.compile of DataParallel",
      withPrefix("_orig_mod.module."),
      ['"module." was taken out of the keys', '"_orig_mod." was taken out of the keys'],
    ],
    ["Lightning", withPrefix("model."), ['a leading "model." was taken off the keys']],
    ["mmengine", withPrefix("backbone."), ['a leading "backbone." was taken off the keys']],
    ["two deep", withPrefix("learner.net."), ['a leading "learner.net." was taken off the keys']],
    [
      "one compiled layer",
      (key) => key.replace(/^rep1\./, "rep1._orig_mod."),
      ['"_orig_mod." was taken out of the keys'],
    ],
  ];
  for (const ending of ["pth", "safetensors"])
    test.for(table)(`%s, .${ending}`, async ([name, rename, remarks]) => {
      const path = await save(`${name}.${ending}`, rename);
      using opened = await openModelFile(path, { arch, model });
      expect([...opened.remarks].sort()).toEqual([...remarks].sort());
      expect(opened.net.stateDict().get("linear.bias")!.readSync().data).toEqual(head);
    });

  test("not where only a part fits: the prefix is named, and taken when it is asked for", async () => {
    const path = await save("part.pth", withPrefix("model."), {}, [["criterion.weight", other]]);
    await expect(openModelFile(path, { arch, model })).rejects.toThrow(
      /the keys under "model\." are those of RepMLP-Mixer-28; 1 others are not: criterion\.weight\. .* --prefix model\./,
    );
    using opened = await openModelFile(path, { arch, model, prefix: "model." });
    expect(opened.remarks).toEqual([
      'a leading "model." was taken off the keys',
      "1 tensors elsewhere were left out: criterion.weight",
    ]);
  });

  test("two networks under prefixes: both are named", async () => {
    const teacher = [...state].map(([key, t]): [string, TensorSource] => [`teacher.${key}`, t]);
    const path = await save("distilled.safetensors", withPrefix("student."), {}, teacher);
    await expect(openModelFile(path, { arch, model })).rejects.toThrow(
      /holds a network under each of "student\.", "teacher\."\. Say which: --prefix student\./,
    );
    using opened = await openModelFile(path, { arch, model, prefix: "teacher." });
    expect(opened.arch).toBe(arch);
    await expect(openModelFile(path, { arch, model, prefix: "pupil." })).rejects.toThrow(
      /no key begins with "pupil\."/,
    );
  });
});

test("a merged block among others is named", async () => {
  const deploy = convertToDeploy(withRandomState(createModel(arch, model)).eval()).stateDict();
  const keep = [...state].filter(([key]) => !key.startsWith("rep1."));
  const merged = [...deploy].filter(([key]) => key.startsWith("rep1."));
  await saveCheckpointFile(at("half.pth"), [...keep, ...merged]);
  await expect(openModelFile(at("half.pth"), { arch, model })).rejects.toThrow(
    /half\.pth: holds RepMLP-Mixer-28 half merged: of 6 blocks 1 are merged\. Block rep1 is merged\./,
  );
});

test("batch norms that always took the statistics of their batch have no equal merged form", async () => {
  const bare = [...state].filter(([key]) => !/running_|tracked/.test(key));
  await saveCheckpointFile(at("bare.pth"), bare);
  await expect(openModelFile(at("bare.pth"), { arch, model })).rejects.toMatchObject({
    code: "detect/statistics",
    message: expect.stringMatching(/no running statistics \(.*running_mean and \d+ more\).* no merged form is equal/),
  });
});

describe("options, class names and preprocessing are those that the file states, in both formats", () => {
  const preprocessing = { inputSize: [1, 8, 8], resize: 8, mean: [0.25], std: [0.125] };
  const classes = Array.from({ length: 10 }, (_, i) => `class "${i}" é`);
  const metadata = {
    arch,
    options: JSON.stringify(model),
    classes: JSON.stringify(classes),
    preprocessing: JSON.stringify(preprocessing),
  };
  test.for([
    ["stated.pth", { metadata }],
    ["stated-ema.pth", { metadata, wrapper: "model_ema" }],
    ["stated.safetensors", { metadata }],
  ] as const)("%s", async ([name, options]) => {
    const path = await save(name, withPrefix(""), options);
    using checkpoint = await openCheckpointFile(path);
    expect(checkpoint.metadata).toEqual(metadata);
    using opened = await openModelFile(path);
    expect(opened).toMatchObject({ arch, form: "train", options: model, classes, preprocessing });
    using named = await openModelFile(path, { arch: "repmlp-mixer-28" });
    expect(named.options).toEqual(model);
  });

  test("a damaged statement is told as such", async () => {
    const path = await save("damaged.pth", withPrefix(""), { metadata: { arch, options: "{" } });
    await expect(openModelFile(path)).rejects.toThrow(/damaged\.pth: the metadata "options" is not an object in JSON/);
    const wrong = await save("wrong.pth", withPrefix(""), { metadata: { arch, options: '{"channels":[4,8]}' } });
    await expect(openModelFile(wrong)).rejects.toThrow(/option channels must be a list of 3 numbers, got \[4,8\]/);
  });
});

describe("files that PyTorch wrote, with several state dicts", () => {
  const fixture = (name: string): string => new URL(`../fixtures/wrapped/${name}`, import.meta.url).pathname;
  const bias = async (name: string, key?: string): Promise<readonly [readonly string[], number]> => {
    using opened = await openModelFile(fixture(name), { arch, model, key });
    return [opened.remarks, Number(opened.net.stateDict().get("linear.bias")!.readSync().data[0])];
  };
  // The generator fills the biases of the head with 1, those of the average with 2.
  test.for([
    ["ema-module.pth", undefined, ['the state dict was under "ema.module"'], 2],
    [
      "state-dict-ema.pth",
      undefined,
      ['the state dict was under "state_dict"; there is "state_dict_ema", too (--key)'],
      1,
    ],
    [
      "state-dict-ema.pth",
      "state_dict_ema",
      ['the state dict was under "state_dict_ema"; there is "state_dict", too (--key)'],
      2,
    ],
    ["params.pth", "params_ema", ['the state dict was under "params_ema"; there is "params", too (--key)'], 2],
    ["params.pth", "params", ['the state dict was under "params"; there is "params_ema", too (--key)'], 1],
  ] as const)("%s, key %s", async ([name, key, remarks, value]) => {
    expect(await bias(name, key)).toEqual([remarks, value]);
  });

  test("where nothing says which is meant, it is asked", async () => {
    await expect(bias("params.pth")).rejects.toThrow(
      /several of its keys hold tensors: params, params_ema\. Say which, on the command line with --key\./,
    );
    await expect(bias("params.pth", "ema")).rejects.toThrow(
      /no state dict under "ema"; there are params, params_ema\./,
    );
  });
});
