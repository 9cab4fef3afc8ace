import { fmt, must } from "../errors.ts";
import type { Tensor } from "../tensor/index.ts";

/** Pairs of pictures: how far apart their embeddings are, and whether they show one person. */
export interface Pairs {
  /** Squared distances of normalised embeddings, 0 … 4. */
  readonly distances: ArrayLike<number>;
  readonly same: ArrayLike<number | boolean>;
}

/**
 * Embeddings of unit length, computed in float64: each that of a picture and of its mirror image added up, or the
 * picture's alone. `[N, D]` → N rows.
 */
export function unitEmbeddings(embeddings: Tensor, mirrored?: Tensor): readonly Float64Array[] {
  const [count, size] = embeddings.shape;
  must(
    embeddings.shape.length === 2 && (!mirrored || fmt(mirrored.shape) === fmt(embeddings.shape)),
    "verification/embeddings",
    () =>
      `verification: embeddings must be [N, D], those of mirror images the same, got ${fmt(embeddings.shape)}${mirrored ? ` and ${fmt(mirrored.shape)}` : ""}`,
  );
  const [own, other] = [embeddings.toFloat64(), mirrored?.toFloat64()];
  return Array.from({ length: count }, (_, i) => {
    const row = own.slice(i * size, (i + 1) * size);
    if (other) for (let j = 0; j < size; j++) row[j] += other[i * size + j];
    const length = Math.max(Math.sqrt(row.reduce((sum, v) => sum + v * v, 0)), 1e-12);
    return row.map((v) => v / length);
  });
}

/** Squared distance of two vectors. */
export const squaredDistance = (a: Float64Array, b: Float64Array): number =>
  a.reduce((sum, v, i) => sum + (v - b[i]) ** 2, 0);

/** Pairs of one fold, or of all but one: distances by whether they are of one person, ascending. */
interface Part {
  readonly same: Float64Array;
  readonly different: Float64Array;
}

/** How many of ascending `values` are below a threshold. */
function below(values: Float64Array, threshold: number): number {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < threshold) low = middle + 1;
    else high = middle;
  }
  return low;
}

const shareBelow = (values: Float64Array, threshold: number): number =>
  values.length ? below(values, threshold) / values.length : 0;

const accuracyAt = ({ same, different }: Part, threshold: number): number =>
  (below(same, threshold) + different.length - below(different, threshold)) / (same.length + different.length);

function partOf({ distances, same }: Pairs, isIn: (pair: number) => boolean): Part {
  const of = (wanted: boolean): Float64Array =>
    Float64Array.from(distances)
      .filter((_, i) => isIn(i) && Boolean(same[i]) === wanted)
      .sort();
  return { same: of(true), different: of(false) };
}

/** Contiguous folds, of which the first are larger by one where they cannot be equal: each, and all the others together. */
function foldsOf(pairs: Pairs, folds: number): readonly { readonly own: Part; readonly others: Part }[] {
  const count = pairs.distances.length;
  must(
    pairs.same.length === count && Number.isInteger(folds) && folds > 1 && count >= folds,
    "verification/pairs",
    () =>
      `verification: ${count} distances and ${pairs.same.length} answers cannot be cut into ${folds} folds. Give an answer for each pair, and at least as many pairs as folds.`,
    "usage",
  );
  const starts = Array.from(
    { length: folds + 1 },
    (_, f) => f * Math.floor(count / folds) + Math.min(f, count % folds),
  );
  return starts.slice(0, -1).map((start, f) => {
    const isOwn = (i: number): boolean => i >= start && i < starts[f + 1];
    return { own: partOf(pairs, isOwn), others: partOf(pairs, (i) => !isOwn(i)) };
  });
}

const grid = (step: number): readonly number[] => Array.from({ length: Math.round(4 / step) }, (_, i) => i * step);

const meanOf = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
const deviationOf = (values: readonly number[]): number => {
  const mean = meanOf(values);
  return Math.sqrt(meanOf(values.map((v) => (v - mean) ** 2)));
};

export interface VerificationAccuracy {
  /** Mean over the folds, and its standard deviation. */
  readonly mean: number;
  readonly deviation: number;
  readonly perFold: readonly number[];
  /** What each fold was judged by: the first threshold with the best accuracy on the other folds. */
  readonly thresholds: readonly number[];
}

/**
 * Accuracy of "one person or two?" in LFW's way: contiguous folds, the threshold 0, 0.01 … 3.99 chosen on all folds but
 * one, on which it is then tried. A pair is taken for one person where its distance is below the threshold.
 *
 * @throws `verification/pairs` when there are fewer pairs than folds
 */
export function verificationAccuracy(pairs: Pairs, folds = 10): VerificationAccuracy {
  const thresholds = grid(0.01);
  const judged = foldsOf(pairs, folds).map(({ own, others }) => {
    const accuracies = thresholds.map((t) => accuracyAt(others, t));
    const threshold = thresholds[accuracies.indexOf(Math.max(...accuracies))];
    return { threshold, accuracy: accuracyAt(own, threshold) };
  });
  const perFold = judged.map(({ accuracy }) => accuracy);
  return {
    ...{ mean: meanOf(perFold), deviation: deviationOf(perFold), perFold },
    thresholds: judged.map(({ threshold }) => threshold),
  };
}

export interface TarAtFar {
  /** Share of pairs of one person that are accepted: mean over the folds, and its standard deviation. */
  readonly tar: number;
  readonly deviation: number;
  /** Share of other pairs that are accepted, mean over the folds. */
  readonly far: number;
  readonly thresholds: readonly number[];
}

/**
 * True accept rate at a false accept rate (1e-3, say): the threshold for it is found on all folds but one, linearly between
 * two of 0, 0.001 … 3.999 (0 where so many are never accepted), and tried on that one.
 *
 * @throws `verification/pairs` when there are fewer pairs than folds
 */
export function tarAtFar(pairs: Pairs, far: number, folds = 10): TarAtFar {
  const thresholds = grid(0.001);
  const judged = foldsOf(pairs, folds).map(({ own, others }) => {
    const rates = thresholds.map((t) => shareBelow(others.different, t));
    const threshold = rates[rates.length - 1] < far ? 0 : crossing(thresholds, rates, far);
    return { threshold, tar: shareBelow(own.same, threshold), far: shareBelow(own.different, threshold) };
  });
  const tars = judged.map(({ tar }) => tar);
  return {
    ...{ tar: meanOf(tars), deviation: deviationOf(tars), far: meanOf(judged.map((j) => j.far)) },
    thresholds: judged.map(({ threshold }) => threshold),
  };
}

/** Where rates that only rise reach `wanted`: between the last place with at most that and the next. */
function crossing(places: readonly number[], rates: readonly number[], wanted: number): number {
  const next = rates.findIndex((rate) => rate > wanted);
  if (next < 0) return places[places.length - 1];
  if (next === 0) return places[0];
  const share = (wanted - rates[next - 1]) / (rates[next] - rates[next - 1]);
  return places[next - 1] + share * (places[next] - places[next - 1]);
}

/** Points of the receiver operating characteristic at the thresholds 0, 0.01 … 3.99: means over the folds. */
export function rocCurve(
  pairs: Pairs,
  folds = 10,
): { readonly thresholds: readonly number[]; readonly tpr: readonly number[]; readonly fpr: readonly number[] } {
  const thresholds = grid(0.01);
  const parts = foldsOf(pairs, folds).map(({ own }) => own);
  const rate = (kind: keyof Part): number[] =>
    thresholds.map((t) => meanOf(parts.map((part) => shareBelow(part[kind], t))));
  return { thresholds, tpr: rate("same"), fpr: rate("different") };
}

/** Embeddings of unit length with the identity of each; distractors have one that no probe has. */
export interface Identified {
  readonly embeddings: readonly Float64Array[];
  readonly identities: readonly (string | number)[];
}

/**
 * Identification in MegaFace's way: the share of probes whose nearest neighbour in a gallery (with distractors) is of
 * their identity. Of equally near ones the first counts.
 *
 * @throws `verification/identification` without probes or gallery, or where there is not one identity for each
 */
export function rankOne(probes: Identified, gallery: Identified): number {
  for (const [name, { embeddings, identities }] of Object.entries({ probes, gallery }))
    must(
      embeddings.length > 0 && embeddings.length === identities.length,
      "verification/identification",
      () => `verification: the ${name} have ${embeddings.length} embeddings and ${identities.length} identities`,
      "usage",
    );
  let found = 0;
  for (const [i, probe] of probes.embeddings.entries()) {
    let [nearest, least] = [0, Number.POSITIVE_INFINITY];
    for (const [j, other] of gallery.embeddings.entries()) {
      const distance = squaredDistance(probe, other);
      if (distance < least) [nearest, least] = [j, distance];
    }
    if (gallery.identities[nearest] === probes.identities[i]) found++;
  }
  return found / probes.embeddings.length;
}
