import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { memorySource, openCheckpoint } from "../../src/checkpoint/index.ts";
import { openCheckpointFile } from "../../src/checkpoint/node/index.ts";
import { RepmlpError } from "../../src/errors.ts";
import { type TensorSource, tensorBytes } from "../../src/tensor/index.ts";
import { fixture, fixtures } from "./support.ts";

interface Golden {
  readonly file: string;
  readonly expect: "ok" | "error";
  readonly container: string;
  readonly expected_prefix: string;
  readonly tensors?: Readonly<Record<string, { dtype: string; shape: number[] }>>;
  readonly other_values?: Readonly<Record<string, unknown>>;
}

// Made by PyTorch 1.13; `expected.safetensors` holds what it reads of each file.
const goldens = (JSON.parse(new TextDecoder().decode(fixture("checkpoints.json"))) as Golden[]).map((golden) => ({
  ...golden,
  name: golden.file.replace("checkpoints/", ""),
}));
const expected = (await openCheckpoint(memorySource(fixture("expected.safetensors")), { stripModulePrefix: false }))
  .entries;

const content = (tensor: TensorSource) => {
  const { dtype, shape } = tensor;
  return { dtype, shape, bytes: Buffer.from(tensorBytes(tensor.readSync())).toString("hex") };
};

describe("files that PyTorch reads", () => {
  test.for(goldens.filter((g) => g.expect === "ok"))("$name", async (golden) => {
    using checkpoint = await openCheckpointFile(join(fixtures, golden.name));
    expect(checkpoint.format).toBe(
      { zip: "pth-zip", legacy: "pth-legacy", safetensors: "safetensors" }[golden.container],
    );
    const prefix = `${golden.expected_prefix}/`;
    const wanted = [...expected].filter(([key]) => key.startsWith(prefix));
    expect(wanted.length).toBeGreaterThan(0);
    expect([...checkpoint.entries.keys()].sort()).toEqual(wanted.map(([key]) => key.slice(prefix.length)).sort());
    for (const [key, tensor] of wanted) {
      const found = checkpoint.entries.get(key.slice(prefix.length))!;
      expect(content(await found.read()), key).toEqual(content(tensor));
      expect(content(found), key).toEqual(content(tensor));
    }
    for (const [key, { dtype, shape }] of Object.entries(golden.tensors ?? {}))
      expect(checkpoint.entries.get(key), key).toMatchObject({ dtype, shape });
    for (const [key, value] of Object.entries(golden.other_values ?? {}))
      expect(checkpoint.others.get(key) ?? null).toEqual(value);
    await checkpoint.verify();
  });

  test("the wrapper and the module. prefix are reported", async () => {
    const opened = async (name: string) => {
      using checkpoint = await openCheckpointFile(join(fixtures, name));
      const { wrapper, strippedPrefix, metadata } = checkpoint;
      return { wrapper, strippedPrefix, metadata };
    };
    expect(await opened("state_dict_wrapper.pth")).toMatchObject({ wrapper: "state_dict", strippedPrefix: false });
    expect(await opened("module_prefix_wrapped_legacy.pth")).toMatchObject({
      wrapper: "state_dict",
      strippedPrefix: true,
    });
    expect(await opened("good.safetensors")).toEqual({
      wrapper: undefined,
      strippedPrefix: false,
      metadata: { format: "pt", note: "hello" },
    });
  });

  test("what lies beside the state dict is listed by path", async () => {
    using checkpoint = await openCheckpointFile(join(fixtures, "nested.pth"));
    const others = Object.fromEntries(checkpoint.others);
    expect(others).toMatchObject({
      "optimizer.state.0.step": 10,
      "optimizer.state.0.exp_avg": { dtype: "float32", shape: [2, 2] },
      "optimizer.param_groups.0.betas.1": 0.999,
      "lr_scheduler.last_epoch": 3,
      config: null,
      big: 2n ** 70n,
      neg: -129,
      flag: false,
      bytes: Uint8Array.of(0, 255),
      "set.0": 1,
      unicode: "é漢字",
    });
  });
});

describe("files that are refused", () => {
  test.for(goldens.filter((g) => g.expect === "error"))("$name", async ({ name }) => {
    const readAll = async () => {
      using checkpoint = await openCheckpointFile(join(fixtures, name));
      for (const tensor of checkpoint.entries.values()) await tensor.read();
    };
    const error = await readAll().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(RepmlpError);
    expect(error).toMatchObject({ kind: "file", message: expect.stringContaining(join(fixtures, name)) });
  });

  test("a damaged storage is found at opening when asked for, at reading otherwise, and not when told so", async () => {
    const source = memorySource(fixture("bad_crc.pth"), "bad_crc.pth");
    await expect(openCheckpoint(source, { verify: "open" })).rejects.toThrow(/data\/0 has CRC-32/);
    const lazily = await openCheckpoint(source);
    expect(lazily.entries.get("stage0.bn.weight")?.readSync().shape).toEqual([4]);
    expect(() => lazily.entries.get("stage0.conv.weight")?.readSync()).toThrow(/data\/0 has CRC-32/);
    await expect(lazily.verify()).rejects.toThrow(/data\/0 has CRC-32/);
    const trusting = await openCheckpoint(source, { verify: "never" });
    expect(trusting.entries.get("stage0.conv.weight")?.readSync().shape).toEqual([4, 3, 3, 3]);
  });
});
