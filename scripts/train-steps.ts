/**
 * Takes some training steps of a recipe and keeps all that another framework needs to take the same ones:
 * `npx tsx scripts/train-steps.ts DATA FOLDER [--recipe cifar10-pure-mlp] [--channels 8,16,32] [--steps 200] [--seed 0]
 * [--lr RATE] [--noise SEED]`. FOLDER gets the weights before and after, every batch as it went in and which pictures it
 * was made of, losses and learning rates. Used by compare_train_torch.py. With --noise the initial weights get 1e-7 of relative noise after they are written.
 */
import { mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  createModel,
  DataLoader,
  Learner,
  modelInfo,
  oneHotTargets,
  openTrainingData,
  readRecipe,
  rng,
  saveCheckpointFile,
  scheduleOf,
  Tensor,
  tensorBytes,
} from "../src/node.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    recipe: { type: "string", default: "cifar10-pure-mlp" },
    channels: { type: "string" },
    steps: { type: "string", default: "200" },
    seed: { type: "string", default: "0" },
    // At the recipe's rate of 0.2 rounding alone moves the pure MLP's losses by more than 1 % within seven steps.
    lr: { type: "string" },
    noise: { type: "string" },
  },
});
const [folder, out] = positionals;
const [steps, seed] = [Number(values.steps), Number(values.seed)];
const recipe = await readRecipe(values.recipe);
const { batchSize, optimizer, arch = "" } = recipe;
const lr = values.lr === undefined ? recipe.lr : Number(values.lr);
mkdirSync(out, { recursive: true });
const { train } = await openTrainingData(folder, {
  augment: recipe.augment,
  preprocessing: modelInfo(arch).preprocessing({}),
});
const channels = values.channels?.split(",").map(Number);
const model = createModel(arch, { numClasses: train.classes.length, channels }).initialize(seed);
await saveCheckpointFile(join(out, "before.pth"), model.stateDict());
if (values.noise !== undefined) {
  const random = rng(Number(values.noise), "noise");
  for (const [, p] of model.parameters())
    p.set(
      Tensor.float32(
        p.shape,
        (p.data.data as Float32Array).map((v) => v * (1 + 1e-7 * random.normal())),
      ),
    );
}
const loader = new DataLoader(train, { batchSize, shuffle: true, seed, dropLast: true });
const epochs = Math.ceil(steps / loader.length);
const schedule = scheduleOf(recipe.schedule, { lr, epochs, stepsPerEpoch: loader.length });
const learner = new Learner(model, { optimizer });
const [images, labels, indices] = ["images.f32", "labels.i32", "indices.u32"].map((name) =>
  openSync(join(out, name), "w"),
);
const losses: number[] = [];
const rates: number[] = [];
while (losses.length < steps)
  for await (const batch of loader) {
    if (losses.length === steps) break;
    const rate = schedule(losses.length);
    const targets = oneHotTargets(batch.labels, train.classes.length);
    writeSync(images, tensorBytes(batch.images));
    writeSync(labels, new Uint8Array(batch.labels.buffer));
    writeSync(indices, new Uint8Array(batch.indices.buffer));
    losses.push((await learner.train(batch.images, targets, rate)).loss);
    rates.push(rate);
    if (losses.length % 10 === 0) console.log(`step ${losses.length}: loss ${losses[losses.length - 1].toFixed(5)}`);
  }
await learner.sync();
await learner.dispose();
await saveCheckpointFile(join(out, "after.pth"), model.stateDict());
const { settings } = optimizer;
writeFileSync(
  join(out, "steps.json"),
  JSON.stringify({ arch, channels, batchSize, losses, rates, optimizer: settings }),
);
