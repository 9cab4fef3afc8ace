import type { ByteSource } from "../byte-source.ts";
import { demand, refuse } from "../file-error.ts";
import { PickleEnd, type PickleHost } from "../pickle/machine.ts";
import { unpickle } from "../pickle/opcodes.ts";
import { Global, kindOf, type PickleValue } from "../pickle/values.ts";
import { type Reading, readRange } from "../reading.ts";
import { FileRange } from "../stored-bytes.ts";
import type { TorchArchive } from "./archive.ts";
import { torchHost } from "./callables.ts";
import { type StorageRef, storageOf } from "./values.ts";
import { MAX_PICKLE } from "./zip-container.ts";

/** First pickle of the old container: protocol 2, the integer 0x1950a86a20f9469cfc6c. */
const MAGIC = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;

/** How much is read at first; the pickles of most files fit. */
const FIRST_WINDOW = 2 ** 18;

/**
 * Opens the container of `torch.save` before PyTorch 1.6 (still there as `_use_new_zipfile_serialization=False`): five
 * pickles (magic number, protocol, machine, object, storage keys), then per storage its length in elements (int64)
 * and its bytes, in the order of the keys. It has no checksums; lengths are checked, to the end of the file.
 */
export function* openPthLegacy(source: ByteSource): Reading<TorchArchive> {
  const { name } = source;
  const referenced = new Map<string, StorageRef>();
  const host = torchHost(name, (id, task) => {
    // A class of modules comes with its source code, which is text here; what counts is its name.
    if (Array.isArray(id) && id[0] === "module" && id[1] instanceof Global) return id[1];
    const storage = storageOf(id);
    if (typeof storage === "string") return task.fail(storage);
    const { byteLength } = referenced.get(storage.key) ?? storage;
    if (byteLength !== storage.byteLength) return task.fail(`storage ${storage.key} has two lengths`);
    referenced.set(storage.key, storage);
    return storage;
  });
  const pickles = new PickleSequence(source, host);
  const magic = yield* pickles.next();
  demand(magic === MAGIC, "not-a-checkpoint", () => `${name}: is a pickle, but not one that torch.save wrote.`);
  checkHead(name, yield* pickles.next(), yield* pickles.next());
  const root = yield* pickles.next();
  const keys = yield* pickles.next();
  const storages = yield* locateStorages(source, keys, referenced, pickles.position);
  return { source, root, storage: (key) => storages.get(key), *verify() {} };
}

function checkHead(name: string, protocol: PickleValue, machine: PickleValue): void {
  demand(
    protocol === PROTOCOL,
    "not-a-checkpoint",
    () => `${name}: the old PyTorch container has protocol ${PROTOCOL}, this file says ${kindOf(protocol)}.`,
  );
  demand(
    machine instanceof Map && machine.get("little_endian") === true,
    "byte-order",
    () => `${name}: was not written on a little-endian machine. Save it again on one.`,
  );
}

/** Reads pickles that stand one after the other, with a window that grows until the next one fits. */
class PickleSequence {
  position = 0;
  private window: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  private wanted = FIRST_WINDOW;

  constructor(
    private readonly source: ByteSource,
    private readonly host: PickleHost,
  ) {}

  *next(): Reading<PickleValue> {
    for (;;) {
      try {
        const { value, end } = unpickle(this.window, this.position, this.source.name, this.host);
        this.position = end;
        return value;
      } catch (error) {
        if (!(error instanceof PickleEnd) || error.needed > this.source.size || this.window.length === this.source.size)
          throw error;
        yield* this.widen(error.needed);
      }
    }
  }

  private *widen(needed: number): Reading<void> {
    const { source } = this;
    demand(
      needed <= MAX_PICKLE && this.window.length < MAX_PICKLE,
      "limit",
      () => `${source.name}: its pickles have more than ${MAX_PICKLE} bytes.`,
    );
    this.wanted = Math.min(Math.max(this.wanted, needed), source.size, MAX_PICKLE);
    this.window = yield* readRange(source, 0, this.wanted, "the pickles");
    this.wanted *= 4;
  }
}

/** Walks over the storages; each must have the length that the pickle gave, and the last must end the file. */
function* locateStorages(
  source: ByteSource,
  keys: PickleValue,
  referenced: ReadonlyMap<string, StorageRef>,
  start: number,
): Reading<Map<string, FileRange>> {
  if (!Array.isArray(keys)) return refuse("pickle", `${source.name}: its storage keys are ${kindOf(keys)}. ${DAMAGED}`);
  const storages = new Map<string, FileRange>();
  let at = start;
  for (const key of keys) {
    const ref = typeof key === "string" && !storages.has(key) ? referenced.get(key) : undefined;
    if (typeof key !== "string" || ref === undefined)
      return refuse(
        "pickle",
        `${source.name}: lists ${kindOf(key)} among its storage keys, which no tensor uses. ${DAMAGED}`,
      );
    const { byteLength } = ref;
    if (byteLength === undefined)
      return refuse(
        "dtype",
        `${source.name}: storage "${key}" is of a type that is not read. Save its tensors as float32.`,
      );
    const head = yield* readRange(source, at, 8, `storage "${key}"`);
    const length = new DataView(head.buffer, head.byteOffset).getBigInt64(0, true);
    demand(
      length === BigInt(ref.length),
      "storage-length",
      () => `${source.name}: storage "${key}" has ${length} elements, the pickle says ${ref.length}. ${DAMAGED}`,
    );
    storages.set(key, new FileRange(source, at + 8, byteLength, `storage "${key}"`));
    at += 8 + byteLength;
  }
  demand(
    at === source.size,
    "truncated",
    () =>
      `${source.name}: its storages end at byte ${at}, the file at ${source.size}. It is truncated or damaged; get it again.`,
  );
  return storages;
}

const DAMAGED = "The file is damaged; get it again.";
