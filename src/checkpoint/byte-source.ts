import { demand } from "./file-error.ts";

/** Random access to the bytes of one file, wherever they lie. */
export interface ByteSource {
  /** What messages call the file. */
  readonly name: string;
  /** Absolute path, where it is a file on disk. */
  readonly path?: string;
  /** Length in bytes. */
  readonly size: number;
  /** Exactly `length` bytes from `offset` on; the caller stays within `size` and does not write into them. */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  /** As `read`, at once; absent where bytes only come asynchronously (a Blob). */
  readSync?(offset: number, length: number): Uint8Array<ArrayBuffer>;
  /**
   * Fills `target` from `offset` on, at once. Only where that is quick (a local file): memory that is used again saves
   * more time than the read takes.
   */
  readInto?(target: Uint8Array<ArrayBuffer>, offset: number): void;
  /** Lets go of the file; reads after that fail. */
  close?(): void;
}

/** A file that lies in memory; reads are views of `bytes`, nothing is copied. */
export function memorySource(bytes: Uint8Array<ArrayBuffer>, name = "checkpoint"): ByteSource {
  const readSync = (offset: number, length: number) => bytes.subarray(offset, offset + length);
  return {
    name,
    size: bytes.byteLength,
    readSync,
    read: (offset, length) => Promise.resolve(readSync(offset, length)),
  };
}

/** A file that a visitor picked in a page, or any other Blob; only the ranges that are asked for are read. */
export function blobSource(blob: Blob, name = "name" in blob ? String(blob.name) : "checkpoint"): ByteSource {
  return {
    name,
    size: blob.size,
    async read(offset, length) {
      const bytes = new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
      demand(
        bytes.length === length,
        "truncated",
        () => `${name}: wanted ${length} bytes at ${offset}, got ${bytes.length}. The file changed; open it again.`,
      );
      return bytes;
    },
  };
}
