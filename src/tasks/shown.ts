import { listed, must } from "../errors.ts";
import type { ShownNumber, ShownTask } from "./task.ts";

/** Names that events of training have for themselves. */
const reserved: ReadonlySet<string> = new Set([
  ...["type", "epoch", "epochs", "step", "steps", "loss", "lr", "gradientNorm", "imagesPerSecond", "secondsLeft"],
]);

/**
 * The number that decides which epoch is the best, as it is shown.
 *
 * @throws `task/numbers` when it is not among those shown, or a name cannot be one
 */
export function leadingNumber({ name: task, shows, metrics: { leading } }: ShownTask): ShownNumber {
  for (const { name } of shows.numbers)
    must(
      /^[a-z]\w*$/.test(name) && !reserved.has(name),
      "task/numbers",
      () =>
        `task ${task}: a number cannot be called "${name}". A name begins with a small letter, holds letters, digits and _ alone, and is none of ${listed([...reserved], 99)}.`,
      "usage",
    );
  const found = shows.numbers.find(({ name }) => name === leading);
  must(
    found,
    "task/numbers",
    () =>
      `task ${task}: the leading number "${leading}" is not among those shown (${listed(shows.numbers.map(({ name }) => name)) || "none"}). Add it to shows.numbers.`,
    "usage",
  );
  return found;
}

/** Numbers that are shown during training too. */
export const trainingNumbers = ({ shows }: ShownTask): readonly ShownNumber[] =>
  shows.numbers.filter(({ training = true }) => training);

/** Whether a value of the leading number is better than another one. */
export const isBetter = (
  { metrics: { higherIsBetter } }: ShownTask,
  value: number,
  than: number | undefined,
): boolean => than === undefined || (higherIsBetter ? value > than : value < than);

/** A share in percent, any other number as it is: for logs and charts. */
export const scaled = ({ percent }: ShownNumber, value: number | undefined): number | undefined =>
  value === undefined || !percent ? value : 100 * value;

/** A number for people: `87.65 %`, `0.01234`. */
export const shownValue = ({ percent }: ShownNumber, value: number): string =>
  percent ? `${(100 * value).toFixed(2)} %` : value.toPrecision(4);

/** Name of a number in records: `recordKey("validation", "top1")` is `validationTop1`. */
export const recordKey = <P extends "train" | "validation" | "best">(part: P, name: string): `${P}${string}` =>
  `${part}${name[0].toUpperCase()}${name.slice(1)}`;

/** What the best value of the leading number is called in records: `bestTop1`. */
export const bestKey = ({ metrics: { leading } }: ShownTask): `best${string}` => recordKey("best", leading);
