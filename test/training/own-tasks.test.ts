import { describe, expect, test } from "vitest";
import {
  convertToDeploy,
  evaluateTask,
  FaceRecognizer,
  FaceResNet,
  faces,
  Predictor,
  PSPNet,
  RepVGG,
  rng,
  sampleDataset,
  segmentation,
  squaredDistance,
  Tensor,
  Trainer,
  unitEmbeddings,
  verificationAccuracy,
} from "../../src/node.ts";
import { classOfPixels } from "../../src/tasks/index.ts";

const classes = ["ground", "disc", "bar"];
const size = 33;

/** A disc and a bar on noise; a frame of pixels that count nowhere. */
const scenes = (length: number) =>
  sampleDataset({
    length,
    imageShape: [3, size, size],
    targetShape: [size, size],
    sample(index) {
      const random = rng(index, "scenes");
      const [cx, cy, r] = [8 + 16 * random.next(), 8 + 16 * random.next(), 4 + 4 * random.next()];
      const bar = Math.floor(28 * random.next());
      const target = new Float32Array(size * size);
      const image = new Float32Array(3 * size * size);
      for (let y = 0; y < size; y++)
        for (let x = 0; x < size; x++) {
          const at = y * size + x;
          const label = (x - cx) ** 2 + (y - cy) ** 2 < r * r ? 1 : x >= bar && x < bar + 5 ? 2 : 0;
          target[at] = Math.min(x, y) === 0 ? 255 : label;
          for (let c = 0; c < 3; c++) image[c * size * size + at] = (c === label ? 1.5 : 0) + 0.5 * random.normal();
        }
      return { image, target };
    },
  });

describe("segmentation", () => {
  const task = segmentation({ classes });
  const backbone = () =>
    new RepVGG({ numBlocks: [1, 1, 1, 1], widthMultiplier: [0.5, 0.25, 0.125, 0.125], dilation: [2, 4] });

  test("a small PSPNet learns, and its deploy form says the same of all but a few pixels", async () => {
    const model = new PSPNet(backbone(), { numClasses: 3, bins: [1, 2, 3] });
    const validation = scenes(12);
    const { history } = await new Trainer(model, {
      data: { train: scenes(48), validation },
      ...{ task, epochs: 20, batchSize: 8, lr: 0.02, seed: 1, threads: 1 },
      group: (key) => (key.startsWith("backbone.") ? undefined : { lrScale: 10 }),
    }).run();
    const first = history[0].validationMiou as number;
    const last = history.at(-1)!.validationMiou as number;
    expect(last).toBeGreaterThan(Math.max(0.5, first));
    const [own, merged] = [model.eval(), convertToDeploy(model.eval())];
    const options = { threads: 1, batchSize: 6 };
    const { numbers, sums, pictures } = await evaluateTask(task, own, validation, options);
    expect(numbers.miou).toBeCloseTo(last, 12);
    expect(pictures).toBe(12);
    // The frame counts nowhere.
    expect(sums.confusion.reduce((a, b) => a + b)).toBe(12 * (size - 1) ** 2);
    expect((await evaluateTask(task, merged, validation, options)).numbers.miou).toBeCloseTo(last, 3);
    const { images } = await validation.batch([0, 1, 2, 3, 4, 5]);
    const predicted = await Promise.all(
      [own, merged].map(async (net) => {
        const predictor = await Predictor.create(net, { inputShape: [3, size, size], batchSize: 6, threads: 1 });
        const { output } = await predictor.runAll(images);
        await predictor.dispose();
        return classOfPixels(output);
      }),
    );
    const differing = predicted[0].filter((c, i) => c !== predicted[1][i]).length;
    expect(differing / predicted[0].length).toBeLessThan(1e-4);
  });

  const batchOf = (labels: readonly number[]) => ({
    images: Tensor.float32([1, 3, 1, labels.length], new Array(3 * labels.length).fill(0)),
    targets: Tensor.float32([1, 1, labels.length], labels),
  });

  test.for([
    ["a label beyond the classes", [0, 1, 3], /a mask has label 3, but there are 3 classes \(0 … 2\)/],
    ["a batch that is ignored as a whole", [255, 255], /every pixel of a batch has the label 255/],
  ] as const)("refuses %s", ([, labels, message]) => {
    expect(() => task.feeds(batchOf(labels), scenes(1))).toThrow(message);
  });

  test("refuses a network of other classes, one that does not return maps, and a class as the label to ignore", async () => {
    const five = new PSPNet(backbone(), { numClasses: 5 }).eval();
    await expect(evaluateTask(task, five, scenes(2), { threads: 1 })).rejects.toThrow(/5 outputs, the task 3 classes/);
    const data = { train: scenes(4), validation: scenes(4) };
    const trainer = new Trainer(new RepVGG({ numBlocks: [1, 1, 1, 1], numClasses: 3 }), {
      ...{ data, task, epochs: 1, batchSize: 4, lr: 0.1, threads: 1 },
    });
    await expect(trainer.run()).rejects.toThrow(/must return \[4, classes, 33, 33\]/);
    expect(() => segmentation({ classes, ignoreLabel: 2 })).toThrow(/must be none of the 3 classes, got 2/);
  });

  test("a class that never occurs counts 0 in mIoU; sums of parts merge to those of the whole", () => {
    const { metrics } = task;
    const batch = batchOf([0, 0, 1, 255]);
    const output = Tensor.float32([1, 3, 1, 4], [1, 0, 0, 1, 0, 1, 2, 0, -1, -1, -1, 0]);
    const sums = metrics.add(metrics.zero(), { output }, batch);
    expect(sums.confusion).toEqual([1, 1, 0, 0, 1, 0, 0, 0, 0]);
    expect(metrics.numbers(sums, 1).miou).toBeCloseTo((0.5 + 0.5 + 0) / 3, 8);
    expect(metrics.numbers(metrics.merge(sums, sums), 2).miou).toBeCloseTo(metrics.numbers(sums, 1).miou!, 8);
    expect(metrics.merge(sums, sums).confusion).toEqual([2, 2, 0, 0, 2, 0, 0, 0, 0]);
    // Of [1, 0, −1], [0, 1, −1] and [0, 2, −1] with labels 0, 0, 1.
    const e = (...logits: number[]): number => Math.log(logits.reduce((s, v) => s + Math.exp(v), 0));
    const expected = (e(1, 0, -1) - 1 + e(0, 1, -1) + e(0, 2, -1) - 2) / 3;
    expect(metrics.addLoss!(0, { output }, batch)).toBeCloseTo(expected, 6);
  });
});

describe("faces", () => {
  const people = (from: number, count: number, each: number) =>
    sampleDataset({
      length: count * each,
      classes: Array.from({ length: count }, (_, i) => `person ${from + i}`),
      imageShape: [3, 32, 32],
      sample(index) {
        const label = index % count;
        const [own, noise] = [rng(from + label, "person"), rng(index + 1000 * from, "noise")];
        const pattern = Array.from({ length: 48 }, () => own.normal());
        const image = Float32Array.from(
          { length: 3 * 32 * 32 },
          (_, i) => pattern[(i >> 10) * 16 + ((i >> 8) & 3) * 4 + ((i >> 3) & 3)] + 0.7 * noise.normal(),
        );
        return { image, label };
      },
    });
  const model = (identities: number) =>
    new FaceRecognizer(
      new FaceResNet({ numBlocks: [1, 1, 1, 1], channels: [8, 8, 16, 16], stemChannels: 8, embedding: 16 }),
      { identities, features: 16 },
    );
  const task = faces({ head: { kind: "amsoftmax", scale: 8, margin: 0.2 } });

  test("the embeddings of people never seen tell them apart, in the deploy form too", async () => {
    const net = model(10);
    const { history } = await new Trainer(net, {
      data: { train: people(0, 10, 12), validation: people(0, 10, 3) },
      ...{ task, epochs: 8, batchSize: 12, lr: 0.1, seed: 2, threads: 1 },
      coefficients: { margin: { epochs: 3 } },
    }).run();
    expect(history.at(-1)!.validationTop1).toBeGreaterThan(0.8);
    const strangers = people(50, 6, 10);
    const { images } = await strangers.batch(Array.from({ length: 60 }, (_, i) => i));
    const accuracies = await Promise.all(
      [net.eval(), convertToDeploy(net.eval())].map(async (form) => {
        const predictor = await Predictor.create(form, { inputShape: [3, 32, 32], batchSize: 60, threads: 1 });
        const rows = unitEmbeddings((await predictor.runAll(images)).output);
        await predictor.dispose();
        // Picture i shows person i mod 6: pairs of one person and of two, in turn.
        const pairs = Array.from({ length: 50 }, (_, i) => [i, i + 6 + (i % 2)] as const).filter(([, j]) => j < 60);
        const distances = pairs.map(([i, j]) => squaredDistance(rows[i], rows[j]));
        return verificationAccuracy({ distances, same: pairs.map(([i, j]) => i % 6 === j % 6) }, 5).mean;
      }),
    );
    expect(accuracies[0]).toBeGreaterThan(0.7);
    expect(accuracies[1]).toBeCloseTo(accuracies[0], 12);
  });

  test("refuses other people in validation, another number of them, and a network without their weights", async () => {
    expect(() => task.checkData!(people(0, 3, 2), people(3, 3, 2))).toThrow(
      /Validate on other pictures of the same people/,
    );
    const net = model(4).eval();
    await expect(evaluateTask(task, net, people(0, 3, 2), { threads: 1 })).rejects.toThrow(
      /4 identities, the data has 3/,
    );
    const deploy = convertToDeploy(net);
    await expect(evaluateTask(task, deploy, people(0, 4, 2), { threads: 1 })).rejects.toThrow(
      /has no weights of identities/,
    );
  });
});
