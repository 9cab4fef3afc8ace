import { listed, must } from "../errors.ts";
import type { Net } from "../nn/index.ts";
import type { Settings } from "./run-state.ts";
import type { UpdateOptions } from "./update.ts";

/** Lists of `key` or `key=value`, which are compared entry by entry. */
const lists = ["frozen", "lrScale", "weightDecay", "momentum"] as const;

/** What earlier versions did not save: a run of theirs says nothing of it, and is not compared. */
const late: readonly string[] = [...lists, "classes", "augment", "mean", "std", "preprocessing", "batchNorm"];

/** Which parameters are trained otherwise than the rest. */
export function groupSettings(model: Net, group: UpdateOptions["group"] = () => undefined): Settings {
  const groups = [...model.parameters()].map(([key, p]) => [key, group(key, p) ?? {}] as const);
  const entries = (name: "lrScale" | "weightDecay" | "momentum", usual?: number): string =>
    groups
      .filter(([, { frozen, [name]: value }]) => !frozen && value !== undefined && value !== usual)
      .map(([key, { [name]: value }]) => `${key}=${value}`)
      .join(",");
  return {
    frozen: groups.flatMap(([key, { frozen }]) => (frozen ? [key] : [])).join(","),
    lrScale: entries("lrScale", 1),
    weightDecay: entries("weightDecay"),
    momentum: entries("momentum"),
  };
}

/** Names of the classes, where the data has such. */
export const classSettings = ({ classes }: { readonly classes?: readonly string[] }): Settings =>
  classes ? { classes: JSON.stringify(classes) } : {};

/** Settings that must not change, because the saved state would lose its meaning. */
const fixed = ["task", "optimizer", "stepsPerEpoch", "ema"];

/**
 * Settings in which a resumed run differs from the saved one, in words.
 *
 * @throws `trainer/resume` for one that must stay the same
 */
export function changedSettings(saved: Settings, own: Settings): string[] {
  const show = (value: Settings[string] | undefined): string => (value === undefined ? "default" : String(value));
  for (const name of fixed)
    must(
      saved[name] === own[name],
      "trainer/resume",
      () =>
        `trainer: cannot resume: the saved run has ${name} ${show(saved[name])}, this one ${show(own[name])}. Use the same settings, or start a new run from its weights.`,
      "usage",
    );
  if (saved.classes !== undefined && own.classes !== undefined) mustBeSameClasses(`${saved.classes}`, `${own.classes}`);
  const names = new Set([...Object.keys(saved), ...Object.keys(own)]);
  return [...names]
    .filter((name) => saved[name] !== own[name] && !(late.includes(name) && saved[name] === undefined))
    .map((name) => {
      const isList = lists.some((list) => list === name);
      const difference = isList ? changedEntries(show(saved[name]), show(own[name])) : undefined;
      return `${name}: ${difference ?? `${show(saved[name])} → ${show(own[name])}`}`;
    });
}

/** A network's outputs are classes by number: other names at the same numbers would be learnt as the old ones. */
function mustBeSameClasses(saved: string, own: string): void {
  const [before, now] = [saved, own].map((text) => JSON.parse(text) as readonly string[]);
  const at = before.findIndex((name, i) => name !== now[i]);
  const moved = [...before].sort().join("\n") === [...now].sort().join("\n");
  must(
    saved === own,
    "trainer/resume",
    () =>
      `trainer: cannot resume: class ${at} is ${JSON.stringify(now[at])} in this data, in the saved run ${JSON.stringify(before[at])} (${moved ? "the same classes in another order" : `then ${listed(before, 6)}; now ${listed(now, 6)}`}). Give the classes their names back, or start a new run from its weights (--init).`,
    "usage",
  );
}

function changedEntries(saved: string, own: string): string {
  const [before, now] = [saved, own].map((text) => text.split(",").filter(Boolean));
  const [more, less] = [now.filter((x) => !before.includes(x)), before.filter((x) => !now.includes(x))];
  return [
    ...(more.length ? [`now ${listed(more, 3)}`] : []),
    ...(less.length ? [`no longer ${listed(less, 3)}`] : []),
  ].join("; ");
}
