/** The pictures of one file, where they lie. */
export interface CifarPart {
  readonly length: number;
  label(index: number): number;
  /** 1024 red, green and blue bytes each. */
  picture(index: number): Uint8Array;
}
