/**
 * Writes a public checkpoint as a plain ONNX file, with nothing in it that says where it is from: a model "made
 * elsewhere" to fine-tune. `npx tsx scripts/export-checkpoint-onnx.ts resnet20|mobileone CHECKPOINT OUT.onnx`
 */
import { exportOnnx, openCheckpointFile, saveOnnx } from "../src/node.ts";
import { MobileOneS0, ResNet20 } from "./checkpoint-networks.ts";

const networks = { resnet20: [ResNet20, 32], mobileone: [MobileOneS0, 224] } as const;

const [name, path, out] = process.argv.slice(2);
const [Network, size] = networks[name as keyof typeof networks];
using checkpoint = await openCheckpointFile(path);
const net = new Network().eval();
net.loadStateDict(checkpoint.entries);
const { model } = await exportOnnx(net, { inputShape: [3, size, size], keepBranches: true, check: false });
const { metadata: _, ...plain } = model;
await saveOnnx(out, plain);
console.log(`wrote ${out}: ${model.nodes.length} nodes, ${model.initializers.size} initializers`);
