/**
 * Takes some training steps of a PSPNet and keeps all that another framework needs to take the same ones:
 * `npx tsx scripts/segmentation-steps.ts CAMVID FOLDER [--recipe scripts/camvid/repmlp.json] [--steps 20] [--seed 0]`.
 * FOLDER gets the initial weights, every batch as it went in, losses and learning rates. Dropout is 0, which no two
 * frameworks draw alike. Used by compare_segmentation_torch.py.
 */
import { mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  createModel,
  DataLoader,
  Learner,
  maskPairs,
  maskSet,
  readRecipe,
  saveCheckpointFile,
  scheduleOf,
  segmentation,
  tensorBytes,
} from "../src/node.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    recipe: { type: "string", default: join(import.meta.dirname, "camvid", "repmlp.json") },
    steps: { type: "string", default: "20" },
    seed: { type: "string", default: "0" },
  },
});
const [folder, out] = positionals;
const [steps, seed] = [Number(values.steps), Number(values.seed)];
const {
  arch = "",
  model: options,
  batchSize,
  lr,
  schedule,
  optimizer,
  lrScale,
  task,
} = await readRecipe(values.recipe);
if (task?.kind !== "segmentation") throw new Error(`${values.recipe}: is not for segmentation`);
const { ignoreLabel, augment = {} } = task;
const classes = readFileSync(join(folder, "classes.txt"), "utf8").trim().split(/\r?\n/);
const { imageSize } = options as { readonly imageSize: readonly [number, number] };
mkdirSync(out, { recursive: true });
const data = maskSet(await maskPairs(folder, "train"), {
  ...{ imageSize, ignoreLabel, numClasses: classes.length, augment },
});
const net = createModel(arch, { ...options, dropout: 0, numClasses: classes.length } as never).initialize(seed);
await saveCheckpointFile(join(out, "before.pth"), net.stateDict());
const loader = new DataLoader(data, { batchSize, shuffle: true, seed, dropLast: true });
const rateOf = scheduleOf(schedule, { lr, epochs: Math.ceil(steps / loader.length), stepsPerEpoch: loader.length });
const scaleOf = (key: string): number =>
  Object.entries(lrScale).find(([pattern]) => key.startsWith(pattern.replace("*", "")))?.[1] ?? 1;
const learner = new Learner(net, {
  optimizer,
  task: segmentation({ classes, ignoreLabel }),
  group: (key) => ({ lrScale: scaleOf(key) }),
});
const [images, masks] = ["images.f32", "masks.f32"].map((name) => openSync(join(out, name), "w"));
const losses: number[] = [];
const rates: number[] = [];
while (losses.length < steps)
  for await (const { images: x, targets } of loader) {
    if (losses.length === steps) break;
    const rate = rateOf(losses.length);
    writeSync(images, tensorBytes(x));
    writeSync(masks, tensorBytes(targets));
    losses.push((await learner.train(x, { masks: targets }, rate)).loss);
    rates.push(rate);
  }
await learner.dispose();
const scales = Object.fromEntries([...net.parameters()].map(([key]) => [key, scaleOf(key)]));
const record = { arch, options, classes: classes.length, ignoreLabel, imageSize, batchSize, losses, rates, scales };
writeFileSync(join(out, "steps.json"), JSON.stringify({ ...record, optimizer: optimizer.settings }));
console.log(losses.map((loss) => loss.toFixed(6)).join(" "));
