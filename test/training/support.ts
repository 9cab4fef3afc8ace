import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Dataset,
  Module,
  nn,
  ops,
  RepMLP,
  rng,
  sampleDataset,
  Trainer,
  type TrainerOptions,
  type TrainingCallback,
  type TrainingEvent,
  type TrainingSummary,
  tensorBytes,
  type Value,
} from "../../src/node.ts";

/** Dropout in the net: a resumed run must draw the same masks. */
export class SmallNet extends Module {
  readonly mix: RepMLP;
  readonly drop = new nn.Dropout(0.3);
  readonly head: nn.Linear;

  constructor(classes = 3) {
    super();
    const size = { inChannels: 1, outChannels: 8, height: 4, width: 4, partition: 2 };
    this.mix = new RepMLP({ ...size, reparamConvKernels: [1] });
    this.head = new nn.Linear(8, classes);
  }

  forward(x: Value): Value {
    return this.head.forward(this.drop.forward(ops.globalAvgPool(ops.relu(this.mix.forward(x)))));
  }
}

/** Noise with a bright row that tells the class. */
export const toyData = (length: number, value = (x: number, _index: number): number => x): Dataset =>
  sampleDataset({
    length,
    classes: ["top", "middle", "bottom"],
    imageShape: [1, 4, 4],
    sample: (index, { epoch }) => {
      const random = rng(index, `toy/${epoch}`);
      const label = index % 3;
      const pixel = (i: number): number => random.normal() * 0.3 + (i >> 2 === label ? 2 : 0);
      return { image: Float32Array.from({ length: 16 }, (_, i) => value(pixel(i), index)), label };
    },
  });

/** Four steps an epoch; the fifth batch is not full. */
export const base = {
  data: { train: toyData(50), validation: toyData(21) },
  epochs: 3,
  batchSize: 12,
  lr: 0.1,
  seed: 5,
  threads: 1,
} satisfies TrainerOptions;

export interface Trained {
  readonly model: SmallNet;
  readonly summary: TrainingSummary;
  readonly events: readonly TrainingEvent[];
}

/** Trains the small network, and stops it after a step if wanted. */
export async function train(options: Partial<TrainerOptions> = {}, stopAt?: number): Promise<Trained> {
  const events: TrainingEvent[] = [];
  const model = new SmallNet();
  const stop = new AbortController();
  if (stopAt === 0) stop.abort();
  const onEvent: TrainingCallback = (event, task) => {
    events.push(event);
    options.onEvent?.(event, task);
    if (event.type === "step" && event.step === stopAt) stop.abort();
  };
  const summary = await new Trainer(model, { ...base, signal: stop.signal, ...options, onEvent }).run();
  return { model, summary, events };
}

export const bytesOf = (model: Module): string =>
  [...model.stateDict()]
    .map(([key, t]) => `${key} ${Buffer.from(tensorBytes(t.readSync())).toString("hex")}`)
    .join("\n");

export const tempFolder = (): string => mkdtempSync(join(tmpdir(), "repmlp-trainer-"));
