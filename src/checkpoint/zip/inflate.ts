import { RepmlpError } from "../../errors.ts";
import { demand, refuse } from "../file-error.ts";
import { nativeZlib } from "./native-zlib.ts";

/** Deflated bytes, the length they must have when inflated, and what messages call them. */
export interface Deflated {
  readonly inflate: Uint8Array<ArrayBuffer>;
  readonly size: number;
  readonly where: string;
}

const damaged = (where: string, size: number, cause?: unknown): never =>
  refuse(
    "deflate",
    `${where}: its deflated data is damaged or does not inflate to the ${size} bytes announced. Get the file again.`,
    cause,
  );

/** Inflates at once, and never more than the announced length. */
export function inflateSync({ inflate, size, where }: Deflated): Uint8Array<ArrayBuffer> {
  if (nativeZlib === undefined)
    throw new RepmlpError(
      "tensor/async-only",
      `${where}: deflated data is only inflated asynchronously here. Use read() instead of readSync().`,
      "file",
    );
  try {
    // One byte more than announced, so that a longer stream is seen; zlib refuses an output limit of 0.
    const { buffer, engine } = nativeZlib.inflateRawSync(inflate, { maxOutputLength: size + 1, info: true });
    return buffer.length === size && engine.bytesWritten === inflate.length ? buffer : damaged(where, size);
  } catch (cause) {
    if (cause instanceof RepmlpError) throw cause;
    return damaged(where, size, cause);
  }
}

/** Inflates by the platform's stream, and never more than the announced length (plus one chunk). */
export async function inflateStream({ inflate, size, where }: Deflated): Promise<Uint8Array<ArrayBuffer>> {
  const result = new Uint8Array(size);
  let filled = 0;
  try {
    const stream = new Blob([inflate]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    for (const reader = stream.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      if (filled + value.length > size) {
        await reader.cancel();
        return damaged(where, size);
      }
      result.set(value, filled);
      filled += value.length;
    }
  } catch (cause) {
    if (cause instanceof RepmlpError) throw cause;
    return damaged(where, size, cause);
  }
  demand(filled === size, "deflate", () => `${where}: inflates to ${filled} bytes, ${size} were announced.`);
  return result;
}

/** Inflates with the fastest means of this host. */
export const inflate = async (deflated: Deflated): Promise<Uint8Array<ArrayBuffer>> =>
  nativeZlib ? inflateSync(deflated) : inflateStream(deflated);
