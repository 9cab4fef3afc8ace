// Runs a checkpoint on given inputs. Usage: npx tsx scripts/run-checkpoint.ts CHECKPOINT INPUT.safetensors OUTPUT.safetensors
// INPUT holds "input" [N, C, H, W]; OUTPUT gets "output" [N, classes]. Used by compare_torch.py.
import { createDetected, detectModel, openCheckpointFile, Predictor, saveCheckpointFile } from "../src/node.ts";

const [path, inputFile, outputFile] = process.argv.slice(2);
using checkpoint = await openCheckpointFile(path);
using given = await openCheckpointFile(inputFile);
const input = given.entries.get("input")!.readSync();
const model = createDetected(detectModel(checkpoint.entries, { where: path }));
model.loadStateDict(checkpoint.entries);
const [batchSize, ...inputShape] = input.shape;
const predictor = await Predictor.create(model, { inputShape, batchSize });
await saveCheckpointFile(outputFile, [["output", await predictor.run(input)]]);
