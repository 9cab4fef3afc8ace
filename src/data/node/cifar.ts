import { join } from "node:path";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { listed, must, RepmlpError } from "../../errors.ts";
import { type Cifar10Options, cifar10FromBytes } from "../sets/cifar.ts";
import type { NamedBytes } from "../sets/idx-dataset.ts";
import type { PixelDataset } from "../sets/pixel-dataset.ts";
import { listFolder, readNamed, reason } from "./files.ts";
import type { Split } from "./idx.ts";

/** No part of CIFAR-10 is larger; a compressed file that grows past it is refused while it unpacks. */
const maxUnpacked = 60_000 * 3073;

const packed = /\.(br|gz)$/;

/** Of the binary version and, where there is none of it, of the Python version. */
const patterns: Readonly<Record<Split, readonly RegExp[]>> = {
  train: [/^(data_batch|train)(_\w+)?\.bin(\.br|\.gz)?$/, /^data_batch_\d+(\.br|\.gz)?$/],
  test: [/^test(_\w+)?\.bin(\.br|\.gz)?$/, /^test_batch(\.br|\.gz)?$/],
};

/** What the archives of CIFAR-10 unpack to. */
const folders = ["cifar-10-batches-bin", "cifar-10-batches-py"];

/**
 * CIFAR-10 from a folder, in its binary version (`data_batch_1.bin` … and `test_batch.bin`, or files named `train*.bin`
 * and `test*.bin`) or its Python version (`data_batch_1` … and `test_batch`: pickles, of which nothing is executed). Each
 * file may be compressed (`.br`, `.gz`). `folder` may be the parent of `cifar-10-batches-bin` or `cifar-10-batches-py`.
 *
 * @throws `data/missing` listing what the folder holds, `cifar/unpack`, and what {@link cifar10FromBytes} throws
 */
export async function cifar10(folder: string, split: Split, options: Cifar10Options = {}): Promise<PixelDataset> {
  const present = await listFolder(folder);
  const inner = folders.find((name) => present.includes(name));
  if (inner) return cifar10(join(folder, inner), split, options);
  // A file that is there both packed and unpacked counts once.
  const single = present.filter((name) => !(packed.test(name) && present.includes(name.replace(packed, ""))));
  const versions = patterns[split].map((pattern) => single.filter((name) => pattern.test(name)));
  const names = versions.find((found) => found.length > 0) ?? [];
  must(
    names.length > 0,
    "data/missing",
    () =>
      `${folder}: no ${split === "train" ? "data_batch_1.bin" : "test_batch.bin"} or ${split}*.bin, nor ${split === "train" ? "data_batch_1" : "test_batch"} of CIFAR-10. The folder holds ${listed(present) || "nothing"}`,
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
