// Reads a checkpoint and writes it again. Usage: npx tsx scripts/rewrite-checkpoint.ts FROM TO [TO …]
// The endings of TO choose the formats. Used by check-torch-roundtrip.py.
import { openCheckpointFile, saveCheckpointFile } from "../src/checkpoint/node/index.ts";

const [from, ...targets] = process.argv.slice(2);
const checkpoint = await openCheckpointFile(from, { stripModulePrefix: false });
for (const to of targets) await saveCheckpointFile(to, checkpoint.entries);
checkpoint.close();
