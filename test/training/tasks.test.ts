import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import {
  type Batch,
  classification,
  evaluateTask,
  fileLogs,
  folderStore,
  Learner,
  Module,
  memoryStore,
  nn,
  ops,
  rng,
  type StepTask,
  sampleDataset,
  sgd,
  type TargetBatch,
  type Task,
  Tensor,
  Trainer,
  type TrainerOptions,
  type TrainingEvent,
  tensorBoardLog,
  type Value,
} from "../../src/node.ts";
import { learningCurves } from "../../src/report/node/curves.ts";
import { epochLine } from "../../src/training/index.ts";
import { eventsFile } from "../../src/training/node/logs.ts";
import { eventsIn } from "./event-file.ts";
import { bytesOf, tempFolder, toyData, train } from "./support.ts";

/** Noise whose mean brightness is to be told. */
const shades = (length: number) =>
  sampleDataset({
    length,
    imageShape: [1, 4, 4],
    targetShape: [],
    sample: (index, { epoch }) => {
      const random = rng(index, `shades/${epoch}`);
      const target = (index % 7) / 7;
      return { image: Float32Array.from({ length: 16 }, () => target + 0.1 * random.normal()), target };
    },
  });

/** One number per picture: squared error, mean absolute error leading, and how many are less than 0.1 off. */
const regression: Task<TargetBatch, nn.Sequential, { absolute: number; close: number }> = {
  name: "regression",
  settings: { close: 0.1 },
  loss(net, { images, input }) {
    const output = net.forward(images);
    const [n] = output.shape;
    const error = ops.sub(ops.reshape(output, [n]), input("brightness", [n]));
    return { loss: ops.div(ops.reduceSum(ops.mul(error, error)), n), outputs: { output } };
  },
  feeds: ({ targets }) => ({ brightness: targets }),
  metrics: {
    zero: () => ({ absolute: 0, close: 0 }),
    add(sums, { output }, { targets }) {
      let { absolute, close } = sums;
      for (const [i, t] of targets.toFloat64().entries()) {
        const error = Math.abs((output.data[i] as number) - t);
        absolute += error;
        if (error < 0.1) close++;
      }
      return { absolute, close };
    },
    merge: (a, b) => ({ absolute: a.absolute + b.absolute, close: a.close + b.close }),
    numbers: ({ absolute, close }, pictures) => ({ mae: absolute / pictures, close: close / pictures }),
    leading: "mae",
    higherIsBetter: false,
  },
  shows: {
    loss: "squared error",
    numbers: [
      { name: "mae", label: "mean error" },
      { name: "close", label: "within 0.1", percent: true, training: false },
    ],
  },
};

const head = (): nn.Sequential => new nn.Sequential(new nn.Flatten(), new nn.Dropout(0.2), new nn.Linear(16, 1));

const settings = {
  data: { train: shades(50), validation: shades(20) },
  task: regression,
  ...{ epochs: 6, batchSize: 12, lr: 0.02, seed: 5, threads: 1 },
};

async function regress(options: Partial<TrainerOptions<TargetBatch, nn.Sequential>> = {}, stopAt = -1) {
  const events: TrainingEvent[] = [];
  const model = head();
  const stop = new AbortController();
  const summary = await new Trainer(model, {
    ...settings,
    signal: stop.signal,
    ...options,
    onEvent: (event) => {
      events.push(event);
      if (event.type === "step" && event.step === stopAt) stop.abort();
    },
  }).run();
  return { model, summary, events };
}

describe("a task of a reader's own: one number", () => {
  const folder = tempFolder();
  const store = folderStore(folder);
  let whole: Awaited<ReturnType<typeof regress>>;
  beforeAll(async () => {
    whole = await regress({ store, callbacks: [fileLogs(folder), tensorBoardLog(folder, { every: 4 })] });
  });
  const values = (): number[] => whole.summary.history.map((r) => r.validationMae!);

  test("learns; the best epoch is the one with the lowest leading number", () => {
    expect(whole.summary.best).toBeLessThan(0.2);
    expect(whole.summary.best).toBe(Math.min(...values()));
    const epochs = whole.events.flatMap((e) => (e.type === "epoch" ? [e] : []));
    let lowest = Number.POSITIVE_INFINITY;
    for (const { validationMae = 0, best } of epochs) {
      expect(best).toBe(validationMae < lowest);
      lowest = Math.min(lowest, validationMae);
    }
    expect(whole.events.at(-1)).toMatchObject({ type: "done", bestMae: whole.summary.best });
  });

  test("the best checkpoint scores what its epoch says", async () => {
    const model = head();
    model.loadStateDict((await store.load("best"))!.entries);
    const { numbers, pictures, sums } = await evaluateTask(regression, model.eval(), settings.data.validation, {
      ...{ threads: 1, batchSize: 8 },
    });
    expect(pictures).toBe(20);
    expect(numbers.mae).toBeCloseTo(whole.summary.best!, 12);
    expect(numbers.close).toBe(sums.close / 20);
  });

  test("names the columns of its logs, and shows shares in percent", () => {
    const [header, ...lines] = readFileSync(join(folder, "log.csv"), "utf8").trim().split("\n");
    expect(header).toBe(
      "epoch,train_loss,eval_loss,eval_mae,eval_close,lr,train_mae,step,seconds,images_per_second,data_wait",
    );
    const [, , loss, mae, close] = lines[5].split(",");
    const last = whole.summary.history[5];
    expect(loss).toBe("");
    expect(Number(mae)).toBeCloseTo(last.validationMae!, 5);
    expect(Number(close)).toBeCloseTo(100 * last.validationClose!, 3);
    const scalars = eventsIn(join(folder, eventsFile)).flatMap((e) => Object.keys(e.scalars));
    expect([...new Set(scalars)]).toEqual([
      ...["train/loss", "train/lr", "images/s", "epoch/train_loss", "epoch/train_mae", "epoch/images/s"],
      ...["val/mae", "val/close"],
    ]);
    const epoch = whole.events.find((e) => e.type === "epoch")!;
    expect(epochLine(epoch, regression)).toMatch(
      /^epoch 1\/6 {2}loss [\d.]+ {2}mean error [\d.]+ {2}test {2}mean error [\d.]+ \(best\) {2}\d+ images\/s/,
    );
    const [, chart] = learningCurves({ losses: [1, 2, 3, 4, 5, 6], history: whole.summary.history }, regression);
    expect(chart.options).toMatchObject({ title: "mean error", yLabel: "mean error" });
    expect(chart.series.map((s) => s.points.length)).toEqual([6, 6]);
  });

  test.for([2, 4, 7])("stopped at step %i and resumed, it ends with the same weights to the bit", async (stopAt) => {
    const own = memoryStore();
    await regress({ store: own }, stopAt);
    const { model, summary } = await regress({ store: own, resume: true });
    expect(bytesOf(model)).toBe(bytesOf(whole.model));
    const results = (history: typeof summary.history) => history.map((r) => [r.trainLoss, r.trainMae, r.validationMae]);
    expect(results(summary.history)).toEqual(results(whole.summary.history));
    expect(summary.best).toBe(whole.summary.best);
  });

  test("patience counts epochs in which the number did not fall", async () => {
    const idle = { lr: 1e-12, schedule: { kind: "constant" }, epochs: 9, patience: 2 } as const;
    const { summary } = await regress(idle);
    const shown = summary.history.map((r) => r.validationMae!);
    expect(summary).toMatchObject({ finished: true, stoppedEarly: true });
    expect(shown).toHaveLength(shown.indexOf(Math.min(...shown)) + 3);
  });

  test("a run of another task is not resumed", async () => {
    const own = memoryStore();
    await train({ store: own, epochs: 1 });
    await expect(regress({ store: own, resume: true })).rejects.toThrow(
      "the saved run has task classification, this one regression",
    );
  });

  test("sums of parts merge to those of the whole", async () => {
    const { metrics } = regression;
    const batch = await settings.data.validation.batch([0, 1, 2, 3, 4]);
    const parts = [await settings.data.validation.batch([0, 1]), await settings.data.validation.batch([2, 3, 4])];
    const output = Tensor.float32([5, 1], [0.1, 0.2, 0.2, 0.4, 0.9]);
    const cut = [Tensor.float32([2, 1], [0.1, 0.2]), Tensor.float32([3, 1], [0.2, 0.4, 0.9])];
    const sums = parts.map((part, i) => metrics.add(metrics.zero(), { output: cut[i] }, part));
    const all = metrics.add(metrics.zero(), { output }, batch);
    const merged = metrics.merge(sums[0], sums[1]);
    expect(merged.close).toBe(all.close);
    expect(merged.absolute).toBeCloseTo(all.absolute, 12);
  });

  test("a number that is not finite ends the run", async () => {
    const numbers = () => ({ mae: Number.NaN, close: 0 });
    const task = { ...regression, metrics: { ...regression.metrics, numbers } };
    await expect(regress({ task })).rejects.toThrow("the validation mae is not finite");
  });
});

test("sums of a classification merge too", () => {
  const { metrics } = classification();
  expect(metrics.merge({ correct: 1, correctTop5: 2 }, { correct: 3, correctTop5: 5 })).toEqual({
    correct: 4,
    correctTop5: 7,
  });
});

/** Embeds; in training the cosine to a picture's own class is lessened by a margin (CosFace). */
class MarginNet extends Module {
  readonly embed = new nn.Linear(16, 4);
  readonly norm = new nn.BatchNorm1d(4);
  readonly classes = new nn.Linear(4, 3, { bias: false });

  forward(x: Value): Value {
    return this.norm.forward(this.embed.forward(ops.flatten(x)));
  }

  /** Logits `[N, 3]` and the embedding. */
  margins(x: Value, targets: Value): { readonly logits: Value; readonly embedding: Value } {
    const embedding = this.forward(x);
    const unit = (v: Value): Value =>
      ops.div(v, ops.sqrt(ops.add(ops.reduceSum(ops.mul(v, v), 1, { keepDims: true }), 1e-6)));
    const cosine = ops.matmul(unit(embedding), ops.transpose(unit(this.classes.weight.value), [1, 0]));
    return { logits: ops.mul(ops.sub(cosine, ops.mul(targets, 0.2)), 8), embedding };
  }
}

describe("labels in the forward pass, and several outputs", () => {
  const plain = classification();
  const task: Task<Batch, MarginNet, { correct: number; correctTop5: number }> = {
    ...plain,
    name: "margins",
    loss(net, { images, input }) {
      const targets = input("targets", [images.shape[0], 3]);
      const { logits, embedding } = net.margins(images, targets);
      return { loss: ops.crossEntropy(logits, targets), outputs: { output: logits, embedding } };
    },
    // In evaluation the labels are not known, and no margin is taken.
    outputs(net, images) {
      const none = ops.constant(Tensor.zeros("float32", [images.shape[0], 3]));
      const { logits, embedding } = net.margins(images, none);
      return { output: logits, embedding };
    },
  };
  const optimizer = sgd({ momentum: 0.9 });

  test("a step returns both, in parts as at once", async () => {
    const { images, labels } = await toyData(12).batch(Array.from({ length: 12 }, (_, i) => i));
    const feeds = task.feeds({ images, labels }, toyData(12));
    const step = async (accumulate: number) => {
      const learner = new Learner(new MarginNet(), { task, optimizer, accumulate, threads: 1 });
      const { loss, output, outputs } = await learner.train(images, feeds, 0.1);
      await learner.dispose();
      return { loss, output, outputs };
    };
    const [whole, parts] = [await step(1), await step(3)];
    for (const { loss, output, outputs } of [whole, parts]) {
      expect(Number.isFinite(loss)).toBe(true);
      expect(output.shape).toEqual([12, 3]);
      expect(outputs.embedding.shape).toEqual([12, 4]);
      // The loss is that of the logits returned, to which each picture's own margin belongs.
      const rows = Array.from(labels, (label, i) => {
        const row = [...(output.data as Float32Array).subarray(3 * i, 3 * i + 3)];
        return Math.log(row.reduce((s, v) => s + Math.exp(v), 0)) - row[label];
      });
      expect(loss).toBeCloseTo(rows.reduce((s, v) => s + v, 0) / 12, 5);
    }
  });

  test("learns, is evaluated without the labels, and goes on to the bit", async () => {
    const options = {
      data: { train: toyData(50), validation: toyData(21) },
      ...{ task, epochs: 4, batchSize: 12, lr: 0.1, seed: 2, threads: 1, optimizer },
    };
    const run = async (more: object = {}, stopAt = -1) => {
      const stop = new AbortController();
      const model = new MarginNet();
      const onEvent = (e: TrainingEvent): void => void (e.type === "step" && e.step === stopAt && stop.abort());
      const summary = await new Trainer(model, { ...options, ...more, signal: stop.signal, onEvent }).run();
      return { model, summary };
    };
    const whole = await run();
    expect(whole.summary.best).toBeGreaterThan(0.9);
    const store = memoryStore();
    await run({ store }, 6);
    const resumed = await run({ store, resume: true });
    expect(bytesOf(resumed.model)).toBe(bytesOf(whole.model));
  });
});

describe("a task that does not fit is refused by name", () => {
  const step = (loss: StepTask["loss"]) => () =>
    new Learner(head(), { task: { loss }, optimizer: sgd(), threads: 1 }).compile([2, 1, 4, 4]);
  test.for<[string, StepTask["loss"], string]>([
    [
      "a loss per picture",
      (net, { images }) => ({ loss: net.forward(images), outputs: { output: net.forward(images) } }),
      "task: the loss must be one value, the mean over the pictures, got [2, 1]",
    ],
    [
      "an output without rows",
      (net, { images }) => {
        const loss = ops.reduceSum(net.forward(images));
        return { loss, outputs: { output: loss } };
      },
      'task: the output "output" [] needs',
    ],
    [
      "an input of another size",
      (net, { images, input }) => ({
        loss: ops.reduceSum(input("mask", [3, 4])),
        outputs: { output: net.forward(images) },
      }),
      'task: the input "mask" [3, 4] needs a name without a colon that is not "input", and 2 rows',
    ],
  ])("%s", async ([, loss, message]) => {
    await expect(step(loss)()).rejects.toThrow(message);
  });

  test("a leading number that is not shown, a name that an event has", () => {
    const make = (task: Task<TargetBatch, nn.Sequential>) => () => new Trainer(head(), { ...settings, task });
    expect(make({ ...regression, metrics: { ...regression.metrics, leading: "rmse" } })).toThrow(
      'task regression: the leading number "rmse" is not among those shown (mae, close)',
    );
    const numbers = [{ name: "loss", label: "loss" }];
    expect(make({ ...regression, shows: { ...regression.shows, numbers } })).toThrow(
      'task regression: a number cannot be called "loss".',
    );
  });

  test("pictures without classes need a task; mix needs classes", () => {
    const { task: _, ...rest } = settings;
    expect(() => new Trainer(head(), rest)).toThrow("these pictures have no classes. Say with task");
    expect(() => new Trainer(head(), { ...settings, mix: { mixup: 0.2 } })).toThrow("mix blends class labels");
  });
});
