import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder that holds package.json, from wherever this code lies: sources and bundles are at different depths. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json")) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}

/** Path of a file or folder that comes with the package, such as `recipes/fine-tune.json`. */
export const packageFile = (...parts: readonly string[]): string => join(packageRoot(), ...parts);
