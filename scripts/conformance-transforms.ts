/**
 * Compares decoding and preprocessing with a folder of references made by Pillow and torchvision.
 *
 *   npx tsx scripts/conformance-transforms.ts <folder with transforms.json>
 */
import { openCheckpoint } from "../src/checkpoint/index.ts";
import { fileSource } from "../src/checkpoint/node/index.ts";
import { checkTransforms } from "./conformance/transforms.ts";

const [folder] = process.argv.slice(2);
if (folder === undefined) throw new Error("usage: conformance-transforms.ts <folder with transforms.json>");

let failed = 0;
let total = 0;
for await (const { id, passed, detail } of checkTransforms(folder, async (path) => {
  return (await openCheckpoint(await fileSource(path))).entries;
})) {
  total++;
  if (!passed) failed++;
  console.log(`${passed ? "ok  " : "FAIL"} ${id}: ${detail}`);
}
console.log(`${total - failed} of ${total} passed`);
process.exitCode = failed > 0 ? 1 : 0;
