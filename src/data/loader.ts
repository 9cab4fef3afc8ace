import { fmt, must } from "../errors.ts";
import { permutation, rng, sameShape, sizeOf, Tensor } from "../tensor/index.ts";
import { checkMixOptions, type MixOptions, mixed } from "./augment/mix.ts";
import { type Batch, checkLabel, isLabelled, type PictureBatch, type PictureSet } from "./sets/dataset.ts";

export interface LoaderOptions {
  /** Pictures per batch. */
  readonly batchSize: number;
  /** A new order every epoch; default false. */
  readonly shuffle?: boolean;
  /** Selects order and augmentation; default 0. */
  readonly seed?: number;
  /** Leaves out a last batch that is not full; default false. */
  readonly dropLast?: boolean;
  /** Batches prepared ahead of the one in use; default 2. */
  readonly prefetch?: number;
  /** Blends pictures and class labels within each batch (mixup, CutMix); default not. */
  readonly mix?: MixOptions;
  /**
   * Takes other pictures of the batch once more in the places of those that could not be read, so that it has its full
   * size; default false: it comes without them.
   */
  readonly fill?: boolean;
  /**
   * Which pictures of a batch of so many are loaded, as their places in it, ascending, at least one; default all. Order,
   * augmentation, blending and what takes the place of an unreadable picture are those of the whole batch.
   */
  readonly share?: (count: number) => readonly number[];
}

/** Where a loader stands: the batch that comes next. Plain JSON. */
export interface LoaderState {
  readonly epoch: number;
  readonly batch: number;
  readonly seed: number;
  readonly batchSize: number;
  /** Pictures in the data set. */
  readonly length: number;
}

export type LoadedBatch<B extends PictureBatch = Batch> = B & Place;

/** Where a batch is from. */
interface Place {
  readonly epoch: number;
  /** Position in the epoch, from 0. */
  readonly batch: number;
  /** Which pictures of the data set these are; without those that could not be read. */
  readonly indices: Uint32Array<ArrayBuffer>;
}

/**
 * Cuts a data set into batches, epoch after epoch.
 *
 * Each `for await` loop runs to the end of the current epoch; the next one does the next epoch. Order and augmentation
 * depend on seed, epoch and index alone, so a loader that is moved to a place (`seek`, `restore`) goes on exactly as
 * one that ran there.
 *
 * @example
 * const loader = new DataLoader(data, { batchSize: 64, shuffle: true, seed: 1 });
 * for await (const { images, labels } of loader) …   // epoch 0
 * for await (const { images, labels } of loader) …   // epoch 1
 */
export class DataLoader<B extends PictureBatch = Batch> implements AsyncIterable<LoadedBatch<B>> {
  /** Batches in one epoch. */
  readonly length: number;
  readonly #options: Required<Omit<LoaderOptions, "mix" | "share">> & Pick<LoaderOptions, "mix" | "share">;
  #epoch = 0;
  #batch = 0;
  #order: { readonly epoch: number; readonly indices: Uint32Array<ArrayBuffer> } | undefined;

  /** @throws `loader/options` for a batch size that is no positive integer, or when no batch is left */
  constructor(
    readonly dataset: PictureSet<B>,
    options: LoaderOptions,
  ) {
    this.#options = { shuffle: false, seed: 0, dropLast: false, prefetch: 2, fill: false, ...options };
    const { batchSize, dropLast, prefetch } = this.#options;
    const usage = (condition: boolean, message: () => string): void =>
      must(condition, "loader/options", () => `loader: ${message()}`, "usage");
    usage(
      Number.isInteger(batchSize) && batchSize > 0,
      () => `\`batchSize\` must be a positive integer, got ${batchSize}`,
    );
    usage(Number.isInteger(prefetch) && prefetch >= 0, () => `prefetch must be an integer from 0, got ${prefetch}`);
    if (options.mix) checkMixOptions(options.mix);
    usage(
      !options.mix || isLabelled(dataset),
      () => "mix blends class labels, but these pictures have none. Leave mix out",
    );
    this.length = Math[dropLast ? "floor" : "ceil"](dataset.length / batchSize);
    usage(
      this.length > 0,
      () => `${dataset.length} pictures make no batch of ${batchSize}. Use a smaller batch size or dropLast: false`,
    );
  }

  get batchSize(): number {
    return this.#options.batchSize;
  }

  /** The place of the next batch; inside a loop, the one after the batch in hand. */
  state(): LoaderState {
    const { seed, batchSize } = this.#options;
    return { epoch: this.#epoch, batch: this.#batch, seed, batchSize, length: this.dataset.length };
  }

  /** Makes `batch` of `epoch` the next one. Takes effect for the loops begun after it. */
  seek(epoch: number, batch = 0): void {
    must(
      Number.isInteger(epoch) && epoch >= 0 && Number.isInteger(batch) && batch >= 0 && batch < this.length,
      "loader/seek",
      () => `loader: epoch ${epoch}, batch ${batch} does not exist: an epoch has batches 0 … ${this.length - 1}`,
      "usage",
    );
    this.#epoch = epoch;
    this.#batch = batch;
  }

  /** Goes on from a saved {@link state}. Throws `loader/restore` when it was made with other data or options. */
  restore(state: LoaderState): void {
    const own = this.state();
    for (const key of ["seed", "batchSize", "length"] as const)
      must(
        state[key] === own[key],
        "loader/restore",
        () =>
          `loader: cannot resume: the saved run has ${key} ${state[key]}, this one ${own[key]}. Use the same data and options`,
        "usage",
      );
    this.seek(state.epoch, state.batch);
  }

  /** The pictures of batch `batch` of `epoch`. */
  indicesOf(epoch: number, batch: number): Uint32Array<ArrayBuffer> {
    const { batchSize, shuffle, seed } = this.#options;
    if (this.#order?.epoch !== epoch) {
      const { length } = this.dataset;
      const indices = shuffle
        ? permutation(length, rng(seed, `shuffle/${epoch}`))
        : Uint32Array.from({ length }, (_, i) => i);
      this.#order = { epoch, indices };
    }
    return this.#order.indices.slice(batch * batchSize, (batch + 1) * batchSize);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<LoadedBatch<B>, void, undefined> {
    const epoch = this.#epoch;
    const pending: Promise<LoadedBatch<B>>[] = [];
    let ahead = this.#batch;
    for (let batch = ahead; batch < this.length; batch++) {
      for (; ahead < this.length && ahead <= batch + this.#options.prefetch; ahead++) {
        const loaded = this.#load(epoch, ahead);
        // A failure is reported when the batch is due; until then, or if the loop is left, it must not end the process.
        loaded.catch(() => undefined);
        pending.push(loaded);
      }
      const current = await pending.shift()!;
      const last = batch + 1 === this.length;
      this.#epoch = last ? epoch + 1 : epoch;
      this.#batch = last ? 0 : batch + 1;
      yield current;
    }
  }

  async #load(epoch: number, batch: number): Promise<LoadedBatch<B>> {
    const whole = this.indicesOf(epoch, batch);
    const { seed, fill, share, mix } = this.#options;
    const draw = { seed, epoch };
    const own = share?.(whole.length);
    // A blend needs the partners of what is loaded, too.
    const places = own && mix ? withMirrored(own, whole.length) : own;
    const at = (all: Indices): Indices => (places ? all.filter((_, i) => places.includes(i)) : all);
    const wanted = at(whole);
    let loaded = await this.dataset.batch(wanted, draw);
    let indices = without(wanted, loaded.missing);
    if (fill && indices.length < wanted.length) {
      const { missing } = places ? await this.dataset.batch(whole, draw) : loaded;
      indices = at(filled(without(whole, missing), whole, missing));
      loaded = await this.dataset.batch(indices, draw);
    }
    checkBatch(loaded, indices, this.dataset);
    const mixed = this.#mixed(loaded, epoch, batch);
    if (!own || !places || own.length === places.length) return { ...mixed, epoch, batch, indices };
    const rows = own.map((place) => places.indexOf(place));
    return { ...rowsOf(mixed, rows), epoch, batch, indices: Uint32Array.from(rows, (row) => indices[row]) };
  }

  #mixed(loaded: B, epoch: number, batch: number): B {
    const { dataset } = this;
    const { seed, mix } = this.#options;
    if (!mix || !isLabelled(dataset)) return loaded;
    const labelled: PictureBatch = loaded;
    return mixed(labelled as B & Batch, dataset.classes.length, mix, { seed, epoch }, batch);
  }
}

/** Places with those at the same distance from the other end, ascending: the n-th from both ends remain partners. */
const withMirrored = (places: readonly number[], count: number): number[] =>
  [...new Set(places.flatMap((place) => [place, count - 1 - place]))].sort((a, b) => a - b);

/** Some pictures of a batch of classes. */
function rowsOf<B extends PictureBatch>(batch: B, rows: readonly number[]): B {
  const { images, labels, targets } = batch as PictureBatch & Partial<Batch>;
  return {
    ...batch,
    images: takeRows(images, rows),
    ...(labels && { labels: Int32Array.from(rows, (row) => labels[row]) }),
    ...(targets && { targets: takeRows(targets, rows) }),
  };
}

function takeRows({ dtype, shape, data }: Tensor, rows: readonly number[]): Tensor {
  const size = sizeOf(shape.slice(1));
  const taken = Tensor.zeros(dtype, [rows.length, ...shape.slice(1)]);
  const values = data as Float32Array;
  for (const [i, row] of rows.entries())
    (taken.data as Float32Array).set(values.subarray(row * size, (row + 1) * size), i * size);
  return taken;
}

type Indices = Uint32Array<ArrayBuffer>;

function without(indices: Indices, missing: readonly number[] = []): Indices {
  const gone = new Set(missing);
  return gone.size ? indices.filter((_, i) => !gone.has(i)) : indices;
}

/** The pictures wanted, with readable ones in turn in the places of the missing. */
function filled(readable: Indices, wanted: Indices, missing: readonly number[] = []): Indices {
  must(
    readable.length > 0,
    "data/unreadable",
    () =>
      `dataset: none of the ${wanted.length} pictures of a batch (${wanted[0]}, …) can be read. Check that their files are there and whole.`,
    "file",
  );
  const all = wanted.slice();
  for (const [i, place] of missing.entries()) all[place] = readable[i % readable.length];
  return all;
}

/** What a data set of one's own gets wrong would otherwise be trained on: a label beyond its row marks the next picture. */
function checkBatch(
  { images, labels = new Int32Array(), targets }: PictureBatch & Partial<Batch>,
  indices: Uint32Array,
  data: PictureSet,
): void {
  const expected = [indices.length, ...data.imageShape];
  const labelled = isLabelled(data);
  const beside = labelled ? labels.length : (targets?.shape[0] ?? indices.length);
  must(
    sameShape(images.shape, expected) && beside === indices.length,
    "data/batch",
    () =>
      `dataset: the batch of pictures ${indices[0] ?? "(none)"}, … must be ${fmt(expected)} with ${indices.length} ${labelled ? "labels" : "targets"}, got ${fmt(images.shape)} with ${beside}. Give every picture the size of imageShape.`,
    "file",
  );
  if (!labelled) return;
  for (const [i, label] of labels.entries())
    checkLabel(label, data.classes.length, () => `dataset: picture ${indices[i]}`);
}
