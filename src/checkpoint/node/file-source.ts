import { closeSync, constants, fstatSync, openSync, read as readCallback, readSync, type Stats } from "node:fs";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { RepmlpError } from "../../errors.ts";
import type { ByteSource } from "../byte-source.ts";
import { demand, refuse } from "../file-error.ts";
import { allocating } from "../reading.ts";

const readAsync = promisify(readCallback);

/** Node reads at most 2^31 - 1 bytes at a time. */
const MAX_READ = 2 ** 30;

/** Closes files that were forgotten, when nothing can read from them any more. */
const forgotten = new FinalizationRegistry<number>((descriptor) => closeSync(descriptor));

/** A file on disk, open until `close()`; a forgotten one is closed when it is collected. */
class FileSource implements ByteSource {
  readonly size: number;
  readonly path: string;
  private descriptor: number | undefined;

  constructor(readonly name: string) {
    this.path = resolve(name);
    this.descriptor = openFile(name);
    forgotten.register(this, this.descriptor, this);
    const stats = fstatSync(this.descriptor);
    this.size = stats.size;
    if (stats.isFile()) return;
    this.close();
    refuse("not-a-file", `${name}: is not a file but ${kindOf(stats)}. Give the path of a checkpoint file.`);
  }

  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = this.allocate(length);
    for (let done = 0; done < length; ) {
      const want = Math.min(length - done, MAX_READ);
      done += this.progress((await readAsync(this.open(), bytes, done, want, offset + done)).bytesRead, offset + done);
    }
    return bytes;
  }

  readSync(offset: number, length: number): Uint8Array<ArrayBuffer> {
    const bytes = this.allocate(length);
    this.readInto(bytes, offset);
    return bytes;
  }

  readInto(target: Uint8Array<ArrayBuffer>, offset: number): void {
    for (let done = 0; done < target.length; ) {
      const want = Math.min(target.length - done, MAX_READ);
      done += this.progress(readSync(this.open(), target, done, want, offset + done), offset + done);
    }
  }

  close(): void {
    if (this.descriptor === undefined) return;
    forgotten.unregister(this);
    closeSync(this.descriptor);
    this.descriptor = undefined;
  }

  private open(): number {
    return this.descriptor ?? refuse("closed", `${this.name}: was closed. Read its tensors before closing it.`);
  }

  /** Not zeroed: every byte is read into. */
  private allocate(length: number): Uint8Array<ArrayBuffer> {
    return allocating(this.name, length, () => {
      const { buffer, byteOffset } = Buffer.allocUnsafeSlow(length);
      return new Uint8Array(buffer, byteOffset, length);
    });
  }

  private progress(bytesRead: number, at: number): number {
    demand(bytesRead > 0, "truncated", () => `${this.name}: ends at byte ${at}; it was cut while open. Get it again.`);
    return bytesRead;
  }
}

const kindOf = (stats: Stats): string =>
  stats.isDirectory() ? "a folder" : stats.isFIFO() ? "a pipe" : stats.isSocket() ? "a socket" : "a device";

/** Why a file cannot be opened, where the system's own words need some of ours. */
const reasons: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file",
  EACCES: "it may not be read",
  ENXIO: "it is a socket or a device, not a file",
};

function openFile(path: string): number {
  try {
    // Opening a pipe would otherwise wait for somebody to write into it, and could not be interrupted.
    return openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (cause) {
    const { code = "", message } = cause as NodeJS.ErrnoException;
    const reason = reasons[code] ?? message;
    throw new RepmlpError("checkpoint/open", `${path}: ${reason}. Check the path.`, "file", { cause });
  }
}

/** Opens a file for random access; files beyond 4 GB are fine. */
export const fileSource = (path: string): ByteSource => new FileSource(path);
