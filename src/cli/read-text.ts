import { readFile } from "node:fs/promises";
import { RepmlpError } from "../errors.ts";

/** A text file that the command line names. Throws `cli/read`. */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new RepmlpError("cli/read", `${path}: cannot be read (${(cause as Error).message})`, "file", { cause });
  }
}
