import { readdirSync } from "node:fs";
import type { Outcome } from "../../scripts/fuzz-report.ts";
import { memorySource, openCheckpoint } from "../../src/checkpoint/index.ts";
import { runSync } from "../../src/checkpoint/reading.ts";
import { readZipDirectory } from "../../src/checkpoint/zip/directory.ts";
import { ZipEntryBytes } from "../../src/checkpoint/zip/entry-bytes.ts";
import { RepmlpError } from "../../src/errors.ts";
import { type Rng, rng } from "../../src/tensor/index.ts";
import { concat, fixture, fixtures, save, zipOf } from "./support.ts";

/** A valid or once valid file, and how a mutated content becomes a file again. */
export interface Seed {
  readonly name: string;
  readonly content: Uint8Array<ArrayBuffer>;
  readonly pack: (content: Uint8Array<ArrayBuffer>) => Promise<Uint8Array<ArrayBuffer>> | Uint8Array<ArrayBuffer>;
}

/**
 * All files of the fixtures as they are; the pickles of the zip files once more by themselves, packed into a new archive
 * with the right checksum (otherwise the checksum would keep every mutation from the pickle machine); files of our own.
 */
export async function seeds(): Promise<Seed[]> {
  const files = readdirSync(fixtures).filter((name) => /\.(pth|safetensors)$/.test(name) && name !== "empty.pth");
  const raw = files.map((name): Seed => ({ name, content: fixture(name), pack: (content) => content }));
  const pickles = await Promise.all(files.filter((name) => /^(?!.*legacy).*\.pth$/.test(name)).map(pickleOf));
  const small = await openCheckpoint(memorySource(fixture("dtypes_zip.pth")));
  const own = await Promise.all(
    (["pth", "safetensors"] as const).map(async (format): Promise<Seed> => {
      const content = await save(small.entries, { format });
      return { name: `own.${format}`, content, pack: (bytes) => bytes };
    }),
  );
  return [...raw, ...pickles.filter((seed) => seed !== undefined), ...own];
}

/** The pickle of a zip file, and how to put it back among the file's storages. */
async function pickleOf(name: string): Promise<Seed | undefined> {
  const source = memorySource(fixture(name), name);
  const files: Record<string, Uint8Array> = {};
  try {
    for (const [path, entry] of runSync(source, readZipDirectory(source)))
      files[path] = runSync(source, new ZipEntryBytes(source, entry, "ignore").range(name, 0, entry.size));
  } catch {
    return undefined; // a file that is broken as a zip file
  }
  const pickle = Object.keys(files).find((path) => path.endsWith("/data.pkl"));
  if (pickle === undefined) return undefined;
  return {
    name: `${name}, its pickle`,
    content: new Uint8Array(files[pickle]),
    pack: (content) => zipOf({ ...files, [pickle]: content }),
  };
}

/** Values that break size and offset computations. */
const extremes = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];

type Mutation = (
  bytes: Uint8Array<ArrayBuffer>,
  random: Rng,
  other: Uint8Array<ArrayBuffer>,
) => Uint8Array<ArrayBuffer>;

const range = (length: number, random: Rng): [number, number] => {
  const a = random.below(length + 1);
  return [a, Math.min(length, a + random.below(64))];
};

const mutations: Readonly<Record<string, Mutation>> = {
  flipBits(bytes, random) {
    const copy = bytes.slice();
    for (let n = 1 + random.below(8); n > 0; n--) copy[random.below(copy.length)] ^= 1 << random.below(8);
    return copy;
  },
  setBytes(bytes, random) {
    const copy = bytes.slice();
    for (let n = 1 + random.below(4); n > 0; n--) copy[random.below(copy.length)] = random.below(256);
    return copy;
  },
  setNumber(bytes, random) {
    const copy = bytes.slice();
    const value = extremes[random.below(extremes.length)];
    const width = 1 << random.below(4);
    const at = random.below(Math.max(1, copy.length - width));
    for (let i = 0; i < width && at + i < copy.length; i++) copy[at + i] = i < 4 ? value >>> (8 * i) : value >>> 31;
    return copy;
  },
  truncate: (bytes, random) => bytes.slice(0, random.below(bytes.length)),
  remove(bytes, random) {
    const [from, to] = range(bytes.length, random);
    return concat(bytes.subarray(0, from), bytes.subarray(to));
  },
  repeat(bytes, random) {
    const [from, to] = range(bytes.length, random);
    const times = random.below(10) === 0 ? 1 + random.below(2000) : 1;
    return concat(
      bytes.subarray(0, to),
      ...Array.from({ length: times }, () => bytes.subarray(from, to)),
      bytes.subarray(to),
    );
  },
  splice(bytes, random, other) {
    const [from, to] = range(other.length, random);
    const at = random.below(bytes.length);
    const skip = random.below(2) * (to - from);
    return concat(bytes.subarray(0, at), other.subarray(from, to), bytes.subarray(at + skip));
  },
  halves: (bytes, random, other) =>
    concat(bytes.subarray(0, random.below(bytes.length)), other.subarray(random.below(other.length))),
};

/** A content with one to four mutations, some of which take parts of another. */
export function mutated(
  content: Uint8Array<ArrayBuffer>,
  random: Rng,
  other: () => Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  const names = Object.keys(mutations);
  let made = content;
  for (let n = Math.max(1, random.below(5) - 1); n > 0 && made.length > 0; n--)
    made = mutations[names[random.below(names.length)]](made, random, other());
  return made;
}

/** Mutates, opens and reads everything; `count` files, the same for the same seed number. */
export async function* fuzz(count: number, seed: number): AsyncGenerator<Outcome, void, void> {
  const all = await seeds();
  const random = rng(seed, "fuzz-checkpoints");
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)];
  for (let i = 0; i < count; i++) {
    const origin = pick(all);
    const bytes = await origin.pack(mutated(origin.content, random, () => pick(all).content));
    yield { seed: origin.name, bytes, ...(await outcome(bytes, origin.name)) };
  }
}

/** A reader reads tensors one at a time; so many bytes of them are read of each file. */
const READ_BYTES = 2 ** 26;

export async function outcome(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Omit<Outcome, "seed" | "bytes">> {
  const start = performance.now();
  const took = () => performance.now() - start;
  try {
    const checkpoint = await openCheckpoint(memorySource(bytes, name.replace(/,.*/, "")));
    let read = 0;
    for (const tensor of checkpoint.entries.values()) if (read < READ_BYTES) read += (await tensor.read()).byteLength;
    await checkpoint.verify();
    return { milliseconds: took() };
  } catch (error) {
    if (error instanceof RepmlpError && error.kind === "file") return { milliseconds: took(), code: error.code };
    return { milliseconds: took(), crash: error };
  }
}
