import {
  closeSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { TensorEntry } from "../../src/checkpoint/index.ts";
import { fileSource, openCheckpointFile, saveCheckpointFile } from "../../src/checkpoint/node/index.ts";
import { derived, Tensor } from "../../src/tensor/index.ts";
import { fixture, fixtures } from "./support.ts";

/** What files are written with, wherever they were opened. */
const handle = await open(fileURLToPath(import.meta.url));
const fileHandle: { write: (bytes: Uint8Array, offset: number, length: number, at: number) => Promise<unknown> } =
  Object.getPrototypeOf(handle);
await handle.close();

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "repmlp-checkpoint-"));
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

const entries: TensorEntry[] = [
  ["w", Tensor.float32([2], [1, 2])],
  ["b", Tensor.float32([1], [3])],
];
const failing: TensorEntry = [
  "bad",
  derived("float32", [], [], () => {
    throw new Error("cannot compute");
  }),
];

describe("saving", () => {
  test("the ending of the name chooses the format", async () => {
    for (const [name, format] of [
      ["a.pth", "pth-zip"],
      ["a.PT", "pth-zip"],
      ["a.safetensors", "safetensors"],
    ] as const) {
      await saveCheckpointFile(join(folder, name), entries);
      using checkpoint = await openCheckpointFile(join(folder, name));
      expect(checkpoint.format).toBe(format);
      expect(checkpoint.entries.get("w")?.readSync().data).toEqual(Float32Array.of(1, 2));
    }
    await expect(saveCheckpointFile(join(folder, "a.txt"), entries)).rejects.toThrow(/a\.txt: its ending/);
    await saveCheckpointFile(join(folder, "a.txt"), entries, { format: "pth" });
    expect(readdirSync(folder).sort()).toEqual(["a.PT", "a.pth", "a.safetensors", "a.txt"]);
  });

  test("a file may be rewritten while it is read", async () => {
    const path = join(folder, "model.pth");
    await saveCheckpointFile(path, entries);
    using checkpoint = await openCheckpointFile(path);
    await saveCheckpointFile(path, [...checkpoint.entries, ["new", Tensor.scalar(5)]]);
    using again = await openCheckpointFile(path);
    expect([...again.entries.keys()]).toEqual(["w", "b", "new"]);
    expect(again.entries.get("b")?.readSync().data).toEqual(Float32Array.of(3));
  });

  test("an error keeps the old file and leaves nothing else", async () => {
    const path = join(folder, "model.safetensors");
    writeFileSync(path, "old");
    await expect(saveCheckpointFile(path, [...entries, failing])).rejects.toThrow("cannot compute");
    expect(readdirSync(folder)).toEqual(["model.safetensors"]);
    expect(readFileSync(path, "utf8")).toBe("old");
  });

  test("a full disk", async () => {
    const path = join(folder, "model.pth");
    writeFileSync(path, "old");
    vi.spyOn(fileHandle, "write").mockRejectedValueOnce(
      Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" }),
    );
    await expect(saveCheckpointFile(path, entries)).rejects.toMatchObject({
      code: "checkpoint/disk-full",
      kind: "file",
      message: `${path}: cannot be written: the disk is full (ENOSPC). What was there before is kept; free some space.`,
    });
    expect(readdirSync(folder)).toEqual(["model.pth"]);
    expect(readFileSync(path, "utf8")).toBe("old");
  });

  test("a system that writes less than asked for", async () => {
    const { write } = fileHandle;
    vi.spyOn(fileHandle, "write").mockImplementationOnce(function (this: unknown, bytes, offset, _, at) {
      return write.call(this, bytes, offset, 10, at);
    });
    await saveCheckpointFile(join(folder, "model.pth"), entries);
    using checkpoint = await openCheckpointFile(join(folder, "model.pth"), { verify: "open" });
    expect(checkpoint.entries.size).toBe(2);
  });

  test("a folder that does not exist", async () => {
    const path = join(folder, "missing", "model.pth");
    await expect(saveCheckpointFile(path, entries)).rejects.toThrow(
      `${path}: cannot be written: folder ${join(folder, "missing")} does not exist. Create it.`,
    );
  });

  test.skipIf(process.platform === "win32")("a symbolic link stays one", async () => {
    writeFileSync(join(folder, "target.pth"), "old");
    symlinkSync("target.pth", join(folder, "link.pth"));
    await saveCheckpointFile(join(folder, "link.pth"), entries);
    expect(lstatSync(join(folder, "link.pth")).isSymbolicLink()).toBe(true);
    using checkpoint = await openCheckpointFile(join(folder, "target.pth"));
    expect(checkpoint.entries.size).toBe(2);
  });

  test("tensors of many sizes, copied from a file and computed", async () => {
    const sizes = [1, 70_000, 0, 400_000, 3, 20_000, 65_536];
    const made = sizes.map(
      (n, i): TensorEntry => [
        `t${i}`,
        new Tensor(
          "float32",
          [n],
          Float32Array.from({ length: n }, (_, j) => i + j),
        ),
      ],
    );
    await saveCheckpointFile(join(folder, "made.safetensors"), made);
    using first = await openCheckpointFile(join(folder, "made.safetensors"));
    const doubled = made.map(
      ([key, tensor]): TensorEntry => [
        `${key}x2`,
        derived("float32", tensor.shape, [tensor], (t) =>
          Tensor.float32(
            t.shape,
            t.toFloat64().map((v) => v * 2),
          ),
        ),
      ],
    );
    await saveCheckpointFile(join(folder, "copied.pth"), [...first.entries, ...doubled]);
    using second = await openCheckpointFile(join(folder, "copied.pth"), { verify: "open" });
    await saveCheckpointFile(join(folder, "again.safetensors"), second.entries);
    using third = await openCheckpointFile(join(folder, "again.safetensors"));
    for (const [key, tensor] of made) {
      const { data } = tensor.readSync();
      expect(Buffer.compare(bytesOf(third.entries.get(key)!.readSync()), bytesOf(tensor.readSync())), key).toBe(0);
      expect(third.entries.get(`${key}x2`)!.readSync().data.at(-1), key).toBe(
        data.length ? Number(data.at(-1)) * 2 : undefined,
      );
    }
  });

  test("damage in the source is found while it is copied", async () => {
    for (const name of ["copy.pth", "copy.safetensors"]) {
      using checkpoint = await openCheckpointFile(join(fixtures, "bad_crc.pth"));
      await expect(saveCheckpointFile(join(folder, name), checkpoint.entries)).rejects.toThrow(
        /tensor "stage0\.conv\.weight": zip entry plain_zip\/data\/0 has CRC-32/,
      );
    }
    expect(readdirSync(folder)).toEqual([]);
  });
});

const bytesOf = (tensor: Tensor) => new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);

describe("open files", () => {
  test("what cannot be opened", async () => {
    await expect(openCheckpointFile(join(folder, "none.pth"))).rejects.toThrow(
      `${join(folder, "none.pth")}: there is no such file. Check the path.`,
    );
    await expect(openCheckpointFile(folder)).rejects.toThrow(`${folder}: is not a file but a folder.`);
  });

  test("a closed checkpoint says so", async () => {
    const checkpoint = await openCheckpointFile(join(fixtures, "plain_zip.pth"));
    checkpoint.close();
    checkpoint.close();
    const tensor = checkpoint.entries.get("linear.bias")!;
    expect(() => tensor.readSync()).toThrow(/plain_zip\.pth: was closed/);
    await expect(tensor.read()).rejects.toThrow(/plain_zip\.pth: was closed/);
  });

  test("a file that is cut while it is open", async () => {
    const path = join(folder, "model.pth");
    writeFileSync(path, fixture("plain_zip.pth"));
    using checkpoint = await openCheckpointFile(path);
    truncateSync(path, 1000);
    const tensor = checkpoint.entries.get("linear.bias")!;
    expect(() => tensor.readSync()).toThrow(/model\.pth: ends at byte \d+; it was cut while open/);
    await expect(tensor.read()).rejects.toMatchObject({ code: "checkpoint/truncated" });
  });

  test.skipIf(process.platform === "win32")("offsets beyond four gigabytes", () => {
    const path = join(folder, "sparse.bin");
    const file = openSync(path, "w");
    writeSync(file, Uint8Array.of(7, 8, 9), 0, 3, 5 * 2 ** 30);
    closeSync(file);
    const source = fileSource(path);
    expect(source.size).toBe(5 * 2 ** 30 + 3);
    expect(source.readSync!(5 * 2 ** 30, 3)).toEqual(Uint8Array.of(7, 8, 9));
    source.close!();
  });
});
