import { must, RepmlpError } from "../errors.ts";

/** As `must`, for what is wrong with a file: the code is put under `checkpoint/` and the kind is `file`. */
export function demand(condition: unknown, code: string, message: () => string): asserts condition {
  must(condition, `checkpoint/${code}`, message, "file");
}

/** Throws what `demand` throws. */
export function refuse(code: string, message: string, cause?: unknown): never {
  throw new RepmlpError(`checkpoint/${code}`, message, "file", cause === undefined ? undefined : { cause });
}
