/** A tensor's bytes on their way into a file. */
export interface Payload {
  readonly length: number;
  /** Passes over the bytes, as often as wanted; a piece is only valid until the next one is asked for. */
  pieces(): AsyncIterable<Uint8Array<ArrayBuffer>> | Iterable<Uint8Array<ArrayBuffer>>;
  /** CRC-32 of all pieces, where it is known. */
  readonly crc?: number | undefined;
  /** To be told the CRC-32 of all pieces; throws when the file they come from says otherwise. Absent: not needed. */
  readonly confirm?: (crc: number) => void;
}
