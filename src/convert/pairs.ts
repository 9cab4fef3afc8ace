import type { TensorSource } from "../tensor/index.ts";

/** A layer with weights and the batch norm that follows it. */
export interface NormPair {
  /** Keys without their last part. */
  readonly layer: string;
  readonly norm: string;
  /** By which names they are recognised. */
  readonly rule: string;
  /** Of a transposed convolution outputs are the second axis. */
  readonly transposed: boolean;
}

/** A batch norm that stays. */
export interface LoneNorm {
  readonly norm: string;
  readonly reason: string;
}

export interface PairQuestion {
  readonly layer: string;
  readonly why: string;
}

export interface FoundPairs {
  readonly pairs: readonly NormPair[];
  readonly lone: readonly LoneNorm[];
  readonly questions: readonly PairQuestion[];
}

type Shapes = ReadonlyMap<string, Pick<TensorSource, "shape">>;

/** Whether a layer is a transposed convolution, where somebody said so. */
export type IsTransposed = (layer: string) => boolean | undefined;

const parentOf = (path: string): string => path.slice(0, path.lastIndexOf(".") + 1);

/**
 * Layers that a batch norm's name says it follows, the most certain first: the one before it in a `Sequential`; the same
 * name with "conv" for "bn"; `conv` beside `bn`; the layer that the norm is a part of.
 */
function* candidates(norm: string): Iterable<readonly [layer: string, rule: string]> {
  const parent = parentOf(norm);
  const name = norm.slice(parent.length);
  if (/^\d+$/.test(name)) {
    yield [`${parent}${Number(name) - 1}`, "the one before it in a Sequential"];
    return;
  }
  const swap = (word: string): string => name.replace(/batch_?norm|bn|norm/, word);
  if (/^(bn|norm|batch_?norm)$/.test(name))
    for (const own of ["conv", "c", "conv2d", "linear", "fc"]) yield [parent + own, "names of one unit"];
  if (!/batch_?norm|bn|norm/.test(name)) return;
  const without = name.replace(/_?(batch_?norm|bn|norm)$/, "");
  for (const own of [swap("conv"), swap("deconv"), swap("fc"), swap("linear"), ...(without ? [without] : [])])
    if (own !== name) yield [parent + own, "names that belong together"];
  if (/^(bn|norm)$/.test(name)) yield [parent.slice(0, -1), "the norm is a part of the layer"];
}

/**
 * Convolutions and fully connected layers with the batch norm that follows them, by common names. Nothing is assumed of
 * what the names do not say: where something may stand between the two, or the norm comes first, it stays.
 *
 * @param taken  keys that belong to blocks of other kinds
 * @param ordered  whether the order of the keys is that of the layers, and not alphabetical
 */
export function findPairs(
  entries: Shapes,
  taken: ReadonlySet<string>,
  ordered: boolean,
  isTransposed: IsTransposed,
): FoundPairs {
  const places = new Map([...entries.keys()].map((key, i) => [key, i]));
  const norms = [...entries.keys()]
    .filter((key) => key.endsWith("running_var") && !taken.has(key))
    .map((key) => key.slice(0, -".running_var".length));
  const lone: LoneNorm[] = [];
  const questions: PairQuestion[] = [];
  const found: NormPair[] = [];
  const matches = norms.map((norm) => {
    const [layer, rule] = candidateOf(norm, entries, taken) ?? [];
    const told = layer === undefined ? undefined : isTransposed(layer);
    return { norm, layer, rule, told, fit: layer === undefined ? undefined : fitOf(layer, norm, entries, told) };
  });
  // A network whose norms come first is seen by those that fit no other way.
  const first = matches.filter(({ fit }) => fit === "before");
  for (const { norm, layer, rule, told, fit } of matches) {
    const keep = (reason: string): void => void lone.push({ norm, reason });
    const [outputs, inputs] = entries.get(`${layer}.weight`)?.shape ?? [];
    const alike = first.find((other) => inputs === outputs && styleOf(other.norm) === styleOf(norm));
    if (!entries.has(`${norm}.running_mean`)) keep(`${norm}.running_mean is missing`);
    else if (layer === undefined || rule === undefined) keep(whyAlone(norm, entries));
    else if (fit === "none") keep(`its size is not the number of outputs of ${layer}, ${outputs}`);
    else if (fit === "before")
      keep(`it has the size of ${layer}'s inputs: it comes before that, or ${layer} is transposed (--transposed)`);
    else if (ordered && (places.get(`${norm}.running_var`) ?? 0) < (places.get(`${layer}.weight`) ?? 0))
      keep(`it stands before ${layer} in the file: it may come first in the network, too`);
    else if (alike && told === undefined) keep(`it may come before ${layer}, as ${alike.norm} does by its size`);
    else if (fit === "ask")
      questions.push({ layer, why: "whether layers with an even kernel are transposed convolutions" });
    else found.push({ layer, norm, rule, transposed: fit === "transposed" });
  }
  const times = new Map<string, number>();
  for (const { layer } of found) times.set(layer, (times.get(layer) ?? 0) + 1);
  const several = found.filter(({ layer }) => (times.get(layer) ?? 0) > 1);
  for (const { layer, norm } of several)
    lone.push({ norm, reason: `${layer} has several batch norms: its weights are shared` });
  return { pairs: found.filter((pair) => !several.includes(pair)), lone, questions };
}

/** A name with its numbers taken out, so that those of one way of naming are alike. */
const styleOf = (norm: string): string => norm.slice(parentOf(norm).length).replace(/\d+/g, "#");

function candidateOf(norm: string, entries: Shapes, taken: ReadonlySet<string>): readonly [string, string] | undefined {
  for (const [layer, rule] of candidates(norm)) {
    const key = layer ? `${layer}.weight` : "weight";
    if ((entries.get(key)?.shape.length ?? 0) >= 2 && !taken.has(key)) return [layer, rule];
  }
  return undefined;
}

/**
 * How a norm goes with a layer by its size: after it, as after a transposed convolution (whose outputs are the second
 * axis), before it, not at all; or it has to be asked.
 */
function fitOf(
  layer: string,
  norm: string,
  entries: Shapes,
  told: boolean | undefined,
): "after" | "transposed" | "before" | "none" | "ask" {
  const [outputs, inputs, ...kernel] = entries.get(`${layer}.weight`)?.shape ?? [];
  const size = entries.get(`${norm}.running_var`)?.shape[0] ?? 0;
  // Hardly any convolution but a transposed one has an even kernel and as many outputs as inputs.
  const isEven = kernel.length > 0 && kernel.every((d) => d % 2 === 0);
  if (told === true) return size % inputs === 0 ? "transposed" : "none";
  if (outputs === size) return told === undefined && isEven && inputs === size ? "ask" : "after";
  if (inputs !== size) return "none";
  return told === undefined && isEven ? "transposed" : "before";
}

function whyAlone(norm: string, entries: Shapes): string {
  const parent = parentOf(norm);
  const name = norm.slice(parent.length);
  const earlier = /^\d+$/.test(name)
    ? Array.from({ length: Number(name) }, (_, i) => `${parent}${Number(name) - 1 - i}`).find((layer) =>
        entries.has(`${layer}.weight`),
      )
    : undefined;
  if (earlier && (entries.get(`${earlier}.weight`)?.shape.length ?? 0) >= 2)
    return `between it and ${earlier} stands something without weights, such as an activation: not linear`;
  return "no convolution or fully connected layer is named as the one before it";
}
