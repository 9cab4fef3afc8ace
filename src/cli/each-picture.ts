import type { Picture } from "../data/index.ts";
import { readPicture } from "../data/node/index.ts";
import { RepmlpError } from "../errors.ts";
import type { Io } from "./io.ts";

/**
 * Does something with each picture, one after the other. One that cannot be read is named, and the others still come;
 * the answer is then exit code 1.
 */
export async function eachPicture(
  paths: readonly string[],
  io: Io,
  body: (path: string, picture: Picture) => Promise<void>,
): Promise<1 | undefined> {
  let failed: 1 | undefined;
  for (const path of paths) {
    const picture = await readPicture(path).catch((error: unknown) => {
      if (!(error instanceof RepmlpError) || error.kind !== "file") throw error;
      io.warn(error.message);
    });
    if (picture) await body(path, picture);
    else failed = 1;
  }
  return failed;
}
