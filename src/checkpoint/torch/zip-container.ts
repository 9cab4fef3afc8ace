import { listed } from "../../errors.ts";
import type { ByteSource } from "../byte-source.ts";
import { demand, refuse } from "../file-error.ts";
import { unpickle } from "../pickle/opcodes.ts";
import type { PickleValue } from "../pickle/values.ts";
import type { Reading } from "../reading.ts";
import { shortened } from "../text.ts";
import { readZipDirectory, type ZipEntry } from "../zip/directory.ts";
import { type CrcCheck, ZipEntryBytes } from "../zip/entry-bytes.ts";
import type { TorchArchive } from "./archive.ts";
import { torchHost } from "./callables.ts";
import { storageOf } from "./values.ts";

/** More than any real state dict's description; a GPT-2 with its optimizer takes some 100 kB. */
export const MAX_PICKLE = 2 ** 27;

/**
 * Opens the zip container of `torch.save` (the default since PyTorch 1.6): `<archive>/data.pkl` and one entry
 * `<archive>/data/<key>` per storage.
 */
export function* openPthZip(source: ByteSource, crc: CrcCheck): Reading<TorchArchive> {
  const entries = yield* readZipDirectory(source);
  const prefix = archivePrefix(source.name, entries);
  const part = (name: string): ZipEntryBytes | undefined => {
    const entry = entries.get(prefix + name);
    return entry && new ZipEntryBytes(source, entry, crc);
  };
  yield* refuseBigEndian(source, part("byteorder"));
  const storages = new Map<string, ZipEntryBytes & { name: string }>();
  for (const name of entries.keys()) {
    if (!name.startsWith(`${prefix}data/`)) continue;
    const key = name.slice(prefix.length + "data/".length);
    storages.set(key, Object.assign(part(`data/${key}`) as ZipEntryBytes, { name: `zip entry data/${key}` }));
  }
  return {
    source,
    root: yield* readPickle(source, part("data.pkl")),
    storage: (key) => storages.get(key),
    *verify() {
      for (const bytes of storages.values()) yield* bytes.verify(source.name);
    },
  };
}

function archivePrefix(file: string, entries: ReadonlyMap<string, ZipEntry>): string {
  const names = [...entries.keys()];
  const pickles = names.filter((name) => /^([^/]+\/)?data\.pkl$/.test(name));
  demand(
    pickles.length === 1,
    "not-a-checkpoint",
    () =>
      `${file}: a PyTorch file holds one <name>/data.pkl, this zip file holds ${pickles.length} ` +
      `(entries: ${listed(names.map((name) => shortened(name, 40)))}). Save a state dict with torch.save.`,
  );
  const prefix = pickles[0].slice(0, -"data.pkl".length);
  demand(
    !entries.has(`${prefix}constants.pkl`),
    "torchscript",
    () =>
      `${file}: is a TorchScript program, not a state dict. In Python, torch.save(torch.jit.load(path).state_dict(), …).`,
  );
  return prefix;
}

function* refuseBigEndian(source: ByteSource, order: ZipEntryBytes | undefined): Reading<void> {
  if (order === undefined) return;
  const where = `${source.name}: byteorder`;
  const text = String.fromCharCode(...(yield* order.range(where, 0, Math.min(order.byteLength, 16))));
  demand(
    text.trim() === "little",
    "byte-order",
    () =>
      `${where}: the tensors are "${shortened(text)}" endian, only "little" is read. Save again on a little-endian machine.`,
  );
}

function* readPickle(source: ByteSource, entry: ZipEntryBytes | undefined): Reading<PickleValue> {
  const where = `${source.name}: data.pkl`;
  if (entry === undefined) return refuse("not-a-checkpoint", `${where} is missing.`);
  const { byteLength } = entry;
  demand(byteLength <= MAX_PICKLE, "limit", () => `${where}: has ${byteLength} bytes, at most ${MAX_PICKLE} are read.`);
  const bytes = yield* entry.range(where, 0, byteLength);
  const host = torchHost(source.name, (id, task) => {
    const storage = storageOf(id);
    return typeof storage === "string" ? task.fail(storage) : storage;
  });
  const { value, end } = unpickle(bytes, 0, where, host);
  demand(
    end === byteLength,
    "pickle",
    () => `${where}: the pickle ends at ${end}, its entry at ${byteLength}. The file is damaged.`,
  );
  return value;
}
