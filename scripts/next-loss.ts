/**
 * The loss of a training step on the first pictures of a CIFAR-10 folder, from a checkpoint, in training mode:
 * `npx tsx scripts/next-loss.ts CHECKPOINT DATA ARCH BATCH`. Used by compare_continue_torch.py.
 */
import { cifar10, createModel, Learner, oneHotTargets, openCheckpointFile, sgd } from "../src/node.ts";

const [path, folder, arch, count] = process.argv.slice(2);
const data = await cifar10(folder, "train");
const { images, labels } = await data.batch(Array.from({ length: Number(count) }, (_, i) => i));
const model = createModel(arch, { numClasses: data.classes.length });
using checkpoint = await openCheckpointFile(path);
model.loadStateDict(checkpoint.entries);
const learner = new Learner(model, { optimizer: sgd() });
const { loss } = await learner.train(images, oneHotTargets(labels, data.classes.length), 0);
await learner.dispose();
console.log(loss);
