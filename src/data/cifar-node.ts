import { join } from "node:path";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { listed, must, RepmlpError } from "../errors.ts";
import { type Cifar10Options, cifar10FromBytes } from "./cifar.ts";
import { listFolder, readNamed, reason } from "./files-node.ts";
import type { NamedBytes } from "./idx-dataset.ts";
import type { Split } from "./idx-node.ts";
import type { PixelDataset } from "./pixel-dataset.ts";

/** No part of CIFAR-10 is larger; a compressed file that grows past it is refused while it unpacks. */
const maxUnpacked = 60_000 * 3073;

const packed = /\.(br|gz)$/;

const patterns: Readonly<Record<Split, RegExp>> = {
  train: /^(data_batch|train)(_\w+)?\.bin(\.br|\.gz)?$/,
  test: /^test(_\w+)?\.bin(\.br|\.gz)?$/,
};

/**
 * CIFAR-10 from a folder in its binary version: `data_batch_1.bin` … and `test_batch.bin`, or files named
 * `train*.bin` and `test*.bin`; each may be compressed (`.br`, `.gz`). `folder` may be the parent of
 * `cifar-10-batches-bin`.
 *
 * @throws `data/missing` listing what the folder holds, `cifar/unpack`, and what {@link cifar10FromBytes} throws
 */
export async function cifar10(folder: string, split: Split, options: Cifar10Options = {}): Promise<PixelDataset> {
  const present = await listFolder(folder);
  if (present.includes("cifar-10-batches-bin")) return cifar10(join(folder, "cifar-10-batches-bin"), split, options);
  // A file that is there both packed and unpacked counts once.
  const names = present.filter(
    (name) => patterns[split].test(name) && !(packed.test(name) && present.includes(name.replace(packed, ""))),
  );
  must(
    names.length > 0,
    "data/missing",
    () =>
      `${folder}: no ${split === "train" ? "data_batch_1.bin" : "test_batch.bin"} or ${split}*.bin of CIFAR-10. The folder holds ${listed(present) || "nothing"}`,
    "file",
  );
  const files = await Promise.all(names.map(async (name) => unpack(await readNamed(join(folder, name)))));
  return cifar10FromBytes(files, options);
}

function unpack(file: NamedBytes): NamedBytes {
  const { name, bytes } = file;
  if (!packed.test(name)) return file;
  try {
    const unpacked = (name.endsWith(".br") ? brotliDecompressSync : gunzipSync)(bytes, {
      maxOutputLength: maxUnpacked,
    });
    return { name, bytes: new Uint8Array(unpacked.buffer as ArrayBuffer, unpacked.byteOffset, unpacked.byteLength) };
  } catch (cause) {
    throw new RepmlpError("cifar/unpack", `${name}: cannot be unpacked (${reason(cause)})`, "file", { cause });
  }
}
