/**
 * Writes a training checkpoint of a named architecture whose values come from the formula of the full-size goldens, so
 * that large files need not be kept: `npx tsx scripts/make-formula-checkpoint.ts ARCH FILE [FILE …]`. The ending of FILE
 * chooses the format.
 */
import { saveCheckpointFile } from "../src/checkpoint/node/index.ts";
import { createModel } from "../src/models/index.ts";
import { formulaEntries } from "./conformance/formula.ts";

const [arch, ...files] = process.argv.slice(2);
if (!arch || !files.length) {
  console.error("usage: npx tsx scripts/make-formula-checkpoint.ts ARCH FILE [FILE …]");
  process.exit(2);
}
const entries = formulaEntries(createModel(arch));
for (const file of files) await saveCheckpointFile(file, entries);
