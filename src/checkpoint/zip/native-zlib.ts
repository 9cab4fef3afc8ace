/** The two functions we want of Node's zlib. */
interface NativeZlib {
  crc32(data: Uint8Array, value?: number): number;
  inflateRawSync(
    data: Uint8Array,
    options: { maxOutputLength: number; info: true },
  ): { buffer: Uint8Array<ArrayBuffer>; engine: { bytesWritten: number } };
}

interface HostProcess {
  getBuiltinModule?(name: string): unknown;
}

/**
 * Node's zlib where there is one (its CRC-32 runs at memory speed and it inflates synchronously), else `undefined`.
 * Asked of the process and not imported, so that the same file loads in a page.
 */
export const nativeZlib = (globalThis as { process?: HostProcess }).process?.getBuiltinModule?.("zlib") as
  | NativeZlib
  | undefined;
