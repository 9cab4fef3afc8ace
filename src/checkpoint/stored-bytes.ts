import type { ByteSource } from "./byte-source.ts";
import { type Reading, readRange } from "./reading.ts";

/** A run of bytes in a file that tensors are views of, checked as they are read. */
export interface StoredBytes {
  readonly byteLength: number;
  /** Bytes `offset` to `offset + length`, within `byteLength`; `where` names file and tensor in messages. */
  range(where: string, offset: number, length: number): Reading<Uint8Array<ArrayBuffer>>;
  /** Where they stand in the file; `undefined` when they do not stand there as they are (deflated). */
  place(where: string): Reading<Place | undefined>;
}

export interface Place {
  readonly start: number;
  /** Compares the CRC-32 of all the bytes and throws when it differs; absent when nothing is to be compared. */
  readonly confirm?: (crc: number) => void;
  /** The CRC-32, where it was compared or somebody else does that. */
  readonly crc?: number;
  /** Leaves that to the caller: reads do not compare any more. */
  readonly defer?: () => void;
}

/** Plain bytes of a file, without a checksum: a range of a safetensors file or of an old `.pth`. */
export class FileRange implements StoredBytes {
  constructor(
    private readonly source: ByteSource,
    readonly start: number,
    readonly byteLength: number,
    /** What messages call it. */
    readonly name = "the data",
  ) {}

  *range(_where: string, offset: number, length: number): Reading<Uint8Array<ArrayBuffer>> {
    return yield* readRange(this.source, this.start + offset, length, this.name);
  }

  // biome-ignore lint/correctness/useYield: a Reading that needs no bytes
  *place(): Reading<Place> {
    return { start: this.start };
  }
}
