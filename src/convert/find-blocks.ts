import type { Shape, TensorSource } from "../tensor/index.ts";
import { escapeRegExp } from "../text.ts";
import { type BlockGroup, type BlockKind, blockKinds } from "./block-kinds.ts";

/** Members of one block in a state dict. */
export interface FoundBlock {
  readonly kind: BlockKind;
  /** What stands before the members' names, with its dot; empty for a block that is the whole file. */
  readonly prefix: string;
  /** Names of layers as the file has them, by the block's; the merged one's, too. */
  readonly naming: Readonly<Record<string, string>>;
  /** Keys of the file by the block's own. */
  readonly keys: ReadonlyMap<string, string>;
  /** Other kinds that have just these keys. */
  readonly rivals: readonly FoundBlock[];
}

/** A block of which a part is there. */
export interface BrokenBlock extends FoundBlock {
  /** Keys that a block of its kind has, as the file would have them. */
  readonly missing: readonly string[];
}

export interface FoundBlocks {
  readonly blocks: readonly FoundBlock[];
  readonly broken: readonly BrokenBlock[];
}

/** Path of a block as people write it. */
export const pathOf = ({ prefix }: { readonly prefix: string }): string =>
  prefix.replace(/\.$/, "") || "(the whole file)";

const COUNTER = "num_batches_tracked";

/**
 * The blocks of known kinds in a state dict: those whose layers all stand under one path, by their own names or those of
 * other authors. Keys belong to one block at most, that which takes in the most.
 */
export function findBlocks(entries: ReadonlyMap<string, TensorSource>): FoundBlocks {
  const candidates = blockKinds
    .flatMap((kind) => [{}, ...(kind.namings ?? [])].flatMap((naming) => candidatesOf(entries, kind, naming)))
    .filter((found) => found.missing.length || (found.kind.fits?.(groupOf(entries, found)) ?? true))
    .sort((a, b) => b.keys.size - a.keys.size);
  const taken = new Set<string>();
  const blocks: FoundBlock[] = [];
  for (const found of candidates) {
    if (found.missing.length || [...found.keys.values()].some((key) => taken.has(key))) continue;
    const own = new Set(found.keys.values());
    const rivals = candidates.filter(
      (other) =>
        other.kind !== found.kind &&
        !other.missing.length &&
        other.keys.size === own.size &&
        [...other.keys.values()].every((key) => own.has(key)),
    );
    blocks.push({ ...found, rivals });
    for (const key of found.keys.values()) taken.add(key);
  }
  const broken = new Map<string, BrokenBlock>();
  for (const found of candidates) {
    if (!found.kind.telling || !found.missing.length || [...found.keys.values()].some((key) => taken.has(key)))
      continue;
    const other = broken.get(found.prefix);
    // What is nearest to complete is most likely what it was.
    if (!other || found.missing.length < other.missing.length) broken.set(found.prefix, found);
  }
  return { blocks: inFileOrder(blocks, entries), broken: inFileOrder([...broken.values()], entries) };
}

function inFileOrder<B extends FoundBlock>(blocks: readonly B[], entries: ReadonlyMap<string, unknown>): B[] {
  const places = new Map([...entries.keys()].map((key, i) => [key, i]));
  const first = (block: B): number => Math.min(...[...block.keys.values()].map((key) => places.get(key) ?? 0));
  return [...blocks].sort((a, b) => first(a) - first(b));
}

/** Every path under which at least one required layer of a kind stands, with what is there and what is not. */
function candidatesOf(
  entries: ReadonlyMap<string, TensorSource>,
  kind: BlockKind,
  naming: Readonly<Record<string, string>>,
): BrokenBlock[] {
  const layers = Object.entries(kind.layers).map(([own, { names, optional, common }]) => {
    const theirs = naming[own] ?? own;
    const text = theirs.split("#").map(escapeRegExp).join("(\\d+)");
    const plain = theirs.split("#")[0];
    return {
      own,
      theirs,
      names,
      optional,
      telling: !optional && !common,
      plain,
      pattern: new RegExp(`^(|.*\\.)${text}\\.([a-z0-9_]+)$`),
    };
  });
  const byPrefix = new Map<string, { keys: Map<string, string>; anchored: boolean }>();
  for (const key of entries.keys())
    for (const { own, names, telling, plain, pattern } of layers) {
      const match = key.includes(plain) ? pattern.exec(key) : null;
      const name = match?.at(-1) ?? "";
      if (!match || !(names.includes(name) || (name === COUNTER && names.includes("running_var")))) continue;
      const found = byPrefix.get(match[1]) ?? { keys: new Map<string, string>(), anchored: false };
      byPrefix.set(match[1], found);
      found.keys.set(`${own.replace("#", match.length > 3 ? match[2] : "")}.${name}`, key);
      found.anchored ||= telling;
    }
  return [...byPrefix]
    .filter(([, { anchored }]) => anchored)
    .map(([prefix, { keys }]) => {
      const missing = layers.flatMap(({ own, theirs, names, optional }) =>
        instancesOf(own, optional, keys).flatMap((number) =>
          names
            .filter((name) => !keys.has(`${own.replace("#", number)}.${name}`))
            .map((name) => `${prefix}${theirs.replace("#", number)}.${name}`),
        ),
      );
      return { kind, prefix, naming, keys, missing, rivals: [] };
    });
}

/** For which numbers a layer has to be there; one without a number once, an optional one where a part of it is. */
function instancesOf(own: string, optional: boolean, keys: ReadonlyMap<string, string>): string[] {
  const numbers = own.includes("#") ? numbersIn(own, keys).map(String) : [""];
  if (!optional) return numbers.length ? numbers : ["0"];
  return numbers.filter((number) => [...keys.keys()].some((key) => key.startsWith(`${own.replace("#", number)}.`)));
}

function numbersIn(layer: string, keys: ReadonlyMap<string, string>): number[] {
  // Layers of one number belong together: a convolution without its norm is a damaged block.
  const stem = layer.split("#")[0];
  const found = [...keys.keys()].map((key) => new RegExp(`^${escapeRegExp(stem)}(\\d+)\\.`).exec(key)?.[1]);
  return [...new Set(found.filter((n) => n !== undefined).map(Number))].sort((a, b) => a - b);
}

/** What a kind's builder looks at. */
export const groupOf = (entries: ReadonlyMap<string, TensorSource>, { keys }: FoundBlock): BlockGroup => ({
  has: (layer) => [...keys.keys()].some((key) => key.startsWith(`${layer}.`)),
  shape: (key): Shape => entries.get(keys.get(key) ?? "")?.shape ?? [],
  numbers: (layer) => numbersIn(layer, keys),
});
