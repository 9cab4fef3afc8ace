/**
 * Writes a training checkpoint of a named architecture whose values come from the formula of the full-size goldens, so
 * that large files need not be kept: `npx tsx scripts/make-formula-checkpoint.ts ARCH FILE [FILE …]`. The ending of FILE
 * chooses the format.
 */
import { saveCheckpointFile } from "../src/checkpoint/node.ts";
import { createModel } from "../src/models/index.ts";
import type { TensorSource } from "../src/tensor/index.ts";
import { formulaTensor } from "./conformance/fullsize.ts";

const [arch, ...files] = process.argv.slice(2);
if (!arch || !files.length) {
  console.error("usage: npx tsx scripts/make-formula-checkpoint.ts ARCH FILE [FILE …]");
  process.exit(2);
}
const entries = [...createModel(arch).state()].map(([key, { dtype, shape }]): [string, TensorSource] => {
  // Made when written, one after the other: the values are not kept.
  const readSync = (): ReturnType<typeof formulaTensor> => formulaTensor(key, shape);
  return [key, { dtype, shape, readSync, read: async () => readSync() }];
});
for (const file of files) await saveCheckpointFile(file, entries);
