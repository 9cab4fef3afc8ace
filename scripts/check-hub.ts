/**
 * Opens a model folder in transformers.js and compares its classes with ours on real pictures:
 * `npx tsx scripts/check-hub.ts FOLDER PICTURES [--mobileone CHECKPOINT] [--dtype fp32|fp16] [--min-agreement 0.95]`.
 * FOLDER is what `repmlp export --layout hub` wrote; with --mobileone it is written first, from those public weights.
 *
 * Two comparisons: on the same prepared input, where classes must be equal, and with transformers.js preparing the
 * picture itself, where its resizing (no antialiasing) may change a class.
 */
import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { AutoModel, env, Tensor as HubTensor, pipeline } from "@huggingface/transformers";
import { openCheckpointFile } from "../src/checkpoint/node/index.ts";
import { imagenetPreprocessing, preprocess } from "../src/data/index.ts";
import { readPicture } from "../src/data/node/index.ts";
import { exportHub } from "../src/export/node/index.ts";
import { LogitsComparison, top1 } from "../src/inference/index.ts";
import { openClassifier } from "../src/inference/node/index.ts";
import { registerNode } from "../src/runtime/node/platform.ts";
import { Tensor } from "../src/tensor/index.ts";
import { MobileOneS0 } from "./checkpoint-networks.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    mobileone: { type: "string" },
    dtype: { type: "string", default: "fp32" },
    "min-agreement": { type: "string", default: "0.95" },
  },
});
const [folder, pictures] = positionals.map((path) => resolve(path));
const dtype = values.dtype === "fp16" ? "fp16" : "fp32";
registerNode();
env.allowRemoteModels = false;

if (values.mobileone) {
  using checkpoint = await openCheckpointFile(values.mobileone);
  const net = new MobileOneS0().eval();
  net.loadStateDict(checkpoint.entries);
  const description = "MobileOne-S0 in its inference form";
  await exportHub(net, folder, { arch: "MobileOne-S0", description, preprocessing: imagenetPreprocessing(224) });
}
const classifier = await openClassifier(join(folder, "onnx", dtype === "fp16" ? "model_fp16.onnx" : "model.onnx"));
const { run } = await classifier.compile();
const theirs = await pipeline("image-classification", folder, { dtype });
const model = await AutoModel.from_pretrained(folder, { dtype });
const { inputSize } = classifier.preprocessing;

const files = (await readdir(pictures, { recursive: true })).filter((name) => /\.jpe?g$/i.test(name)).sort();
const found = new LogitsComparison();
let ownInput = 0;
for (const name of files) {
  const path = join(pictures, name);
  const input = preprocess(await readPicture(path), classifier.preprocessing);
  const logits = (await run(new Tensor("float32", [1, ...inputSize], input))).data as Float32Array;
  const output = await model({ pixel_values: new HubTensor("float32", input, [1, ...inputSize]) });
  const hub = output.logits.data as Float32Array;
  found.addRows(Tensor.float32([1, hub.length], logits), Tensor.float32([1, hub.length], hub));
  const first = top1(logits).index;
  const [{ label }] = (await theirs(path, { top_k: 1 })) as { label: string }[];
  if (label === (classifier.labels?.[first] ?? `LABEL_${first}`)) ownInput++;
}
const share = ownInput / files.length;
console.log(`${files.length} pictures of ${pictures}, ${dtype}`);
console.log(
  `same prepared input: ${found.agree} same first class; logits differ by ${found.maxAbs.toExponential(1)} at most`,
);
console.log(`input prepared by transformers.js: ${ownInput} same first class (${(100 * share).toFixed(1)} %)`);
process.exitCode =
  found.agree === files.length && Number.isFinite(found.maxAbs) && share >= Number(values["min-agreement"]) ? 0 : 1;
