import { must } from "../errors.ts";
import type { Family, Naming } from "./family.ts";

/** What was done to the keys of a state dict to make them a network's. */
export interface Taken {
  /** What all of them began with. */
  readonly prefix?: string;
  /** Names of wrappers that stood within them, such as `_orig_mod`. */
  readonly wrappers?: readonly string[];
  /** Whose names the keys had, where not those that the network has here. */
  readonly naming?: string;
  /** Keys without the prefix. */
  readonly leftOut?: readonly string[];
}

/** A state dict under a family's names. */
export interface NamedState<T> {
  readonly entries: ReadonlyMap<string, T>;
  /** Whether all keys are in it, or some had to be left out that nobody asked to leave out. */
  readonly whole: boolean;
  /** Those keys. */
  readonly others: ReadonlyMap<string, T>;
  readonly taken: Taken;
}

/** Modules that PyTorch puts around others: data parallelism, `torch.compile`, sharding, activation checkpoints. */
const WRAPPERS = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/**
 * The ways in which a state dict may be one of a family's: those in which all keys of a signature are there, with or
 * without something before them.
 *
 * @param prefix  what the network's keys begin with. Default: anything that makes the signature fit
 */
export function namedStates<T>(
  entries: ReadonlyMap<string, T>,
  { namings }: Family,
  prefix: string | undefined,
): NamedState<T>[] {
  const given = prefix === undefined ? undefined : under(entries, prefix);
  const { bare, wrappers } = unwrapped(given?.inside ?? entries);
  return namings.flatMap((naming, i) => {
    const found = prefixesOf(bare, naming);
    return found.map((own): NamedState<T> => {
      const { inside, outside } = under(bare, own);
      return {
        entries: naming.names ? renamed(inside, naming.names.toOwn) : inside,
        whole: outside.size === 0,
        others: outside,
        taken: {
          ...((prefix || own) && { prefix: `${prefix ?? ""}${own}` }),
          ...(wrappers.length && { wrappers }),
          ...(i > 0 && { naming: naming.name }),
          ...((given?.outside.size || outside.size) && {
            leftOut: [...(given?.outside.keys() ?? []), ...outside.keys()],
          }),
        },
      };
    });
  });
}

/**
 * A network's state dict as others name it.
 *
 * @param entries  under the names that the network has here, in either form
 * @param naming  whose names: {@link Naming.name}
 * @returns the same tensors in the same order
 * @throws `models/naming` where the family has no such names, or they have none for this form
 */
export function underNames<T>(
  entries: ReadonlyMap<string, T>,
  { name, namings }: Pick<Family, "name" | "namings">,
  naming: string,
): ReadonlyMap<string, T> {
  const found = namings.find((n) => n.name === naming);
  must(
    found,
    "models/naming",
    () =>
      `models: ${name} has no names "${naming}" for its keys; there are ${namings.map((n) => n.name).join(", ")}. Choose one of them with --names.`,
    "usage",
  );
  if (!found.names) return entries;
  const result = renamed(entries, found.names.fromOwn);
  const back = renamed(result, found.names.toOwn);
  must(
    prefixesOf(result, found).includes("") && [...entries.keys()].every((key) => back.has(key)),
    "models/naming",
    () =>
      `models: ${naming} has no names for this form of ${name}, only for one with ${found.signature.map((keys) => keys[0]).join(" or ")}. Write it under the names ${namings[0].name}.`,
    "usage",
  );
  return result;
}

/** Keys that begin with a prefix, without it, and those that do not. */
function under<T>(
  entries: ReadonlyMap<string, T>,
  prefix: string,
): { readonly inside: ReadonlyMap<string, T>; readonly outside: ReadonlyMap<string, T> } {
  const inside = new Map<string, T>();
  const outside = new Map<string, T>();
  for (const [key, t] of entries)
    if (key.startsWith(prefix)) inside.set(key.slice(prefix.length), t);
    else outside.set(key, t);
  return { inside, outside };
}

/** Takes wrappers' names out of the keys, unless two keys would then be one. */
function unwrapped<T>(entries: ReadonlyMap<string, T>): {
  readonly bare: ReadonlyMap<string, T>;
  readonly wrappers: readonly string[];
} {
  const seen = new Set<string>();
  const bare = renamed(entries, (key) =>
    key
      .split(".")
      .filter((part) => {
        if (!WRAPPERS.includes(part)) return true;
        seen.add(part);
        return false;
      })
      .join("."),
  );
  return seen.size && bare.size === entries.size ? { bare, wrappers: [...seen] } : { bare: entries, wrappers: [] };
}

function renamed<T>(
  entries: ReadonlyMap<string, T>,
  rename: (key: string, keys: ReadonlySet<string>) => string,
): Map<string, T> {
  const keys = new Set(entries.keys());
  return new Map([...entries].map(([key, t]) => [rename(key, keys), t]));
}

/** What stands before the keys of a signature, wherever all of them are there; nothing at all goes before the rest. */
function prefixesOf(entries: ReadonlyMap<string, unknown>, { signature }: Naming): string[] {
  const found = new Set<string>();
  for (const [first, ...others] of signature)
    for (const key of entries.keys()) {
      if (key !== first && !key.endsWith(`.${first}`)) continue;
      const prefix = key.slice(0, key.length - first.length);
      if (others.every((other) => entries.has(`${prefix}${other}`))) found.add(prefix);
    }
  return found.has("") ? [""] : [...found];
}
