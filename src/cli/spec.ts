/*
 * How a command declares itself. The declarations are plain data without imports from the library, so that help and
 * errors about the command line cost no loading.
 */

/** A positional argument; `T` is what the command gets. */
export interface ArgumentSpec<T> {
  readonly kind: "required" | "optional" | "many";
  readonly help: string;
  /** Only for the compiler. */
  readonly type?: T;
}

/** An option; `T` is what the command gets. */
export interface OptionSpec<T> {
  /** As commander writes them: `-a, --arch <name>`, `--quiet`, `--no-verify`. */
  readonly flags: string;
  readonly help: string;
  /** The value of a text, `undefined` when it is not valid. */
  readonly parse?: (text: string) => T | undefined;
  /** What {@link parse} takes, for messages: `a whole number from 1`. */
  readonly expects?: string;
  readonly choices?: readonly string[];
  readonly default?: T;
  /** Options of the library that it stands for under another name; see `inFlags`. */
  readonly library?: readonly string[];
  /** May be given several times. */
  readonly repeats?: boolean;
  /** Help of the switch that says the opposite, `--no-…`. */
  readonly opposite?: string;
  /** Only for the compiler. */
  readonly type?: T;
}

type Specs<S> = Readonly<Record<string, S>>;
export type ArgumentSpecs = Specs<ArgumentSpec<unknown>>;
export type OptionSpecs = Specs<OptionSpec<unknown>>;

type ValuesOf<S> = {
  readonly [K in keyof S]: S[K] extends ArgumentSpec<infer T> | OptionSpec<infer T> ? T : never;
};

/** What a command declares. */
export interface CommandSpec<A extends ArgumentSpecs = ArgumentSpecs, O extends OptionSpecs = OptionSpecs> {
  /** One line for the list of commands. */
  readonly summary: string;
  /** More about it, shown with its help. */
  readonly description?: string;
  /** Command lines as a user types them, and what each does. */
  readonly examples: readonly (readonly [command: string, does: string])[];
  /** Heading under which the list of commands shows it. */
  readonly group: string;
  /** Positional arguments in their order. */
  readonly args: A;
  /** Options by the name that commander gives them: `--image-size` is `imageSize`, `--no-verify` is `verify`. */
  readonly options: O;
  /** Whether there is a machine-readable result. Default true. */
  readonly json?: boolean;
}

/** Values of a command's arguments and options. */
export interface CallOf<S extends CommandSpec> {
  readonly args: ValuesOf<S["args"]>;
  readonly options: ValuesOf<S["options"]>;
}

/** Declares a command; keeps the types of its arguments and options. */
export const command = <A extends ArgumentSpecs, O extends OptionSpecs>(spec: CommandSpec<A, O>): CommandSpec<A, O> =>
  spec;

export const required = (help: string): ArgumentSpec<string> => ({ kind: "required", help });
export const optional = (help: string): ArgumentSpec<string | undefined> => ({ kind: "optional", help });
/** One or more. */
export const many = (help: string): ArgumentSpec<readonly string[]> => ({ kind: "many", help });

/** A switch: false unless given. `--no-…`: true unless given. */
export const flag = (flags: string, help: string): OptionSpec<boolean> => ({
  flags,
  help,
  default: flags.includes("--no-"),
});

/** A switch and its opposite `--no-…`; `undefined` when neither is given. */
export const either = (flags: string, help: string, opposite: string): OptionSpec<boolean | undefined> => ({
  flags,
  help,
  opposite,
});

/** Any text. */
export const text = (flags: string, help: string): OptionSpec<string | undefined> => ({ flags, help });

/** Any text, several times. */
export const texts = (flags: string, help: string): OptionSpec<readonly string[]> => ({
  flags,
  help,
  repeats: true,
  default: [],
});

/** Any text, one at a time, several times: what follows it is not taken for more of it. */
export const repeated = (flags: string, help: string): OptionSpec<readonly string[]> => texts(flags, help);

/** One of a few words. */
export function choice<const T extends string>(
  flags: string,
  choices: readonly T[],
  help: string,
): OptionSpec<T | undefined>;
export function choice<const T extends string>(
  flags: string,
  choices: readonly T[],
  help: string,
  value: T,
): OptionSpec<T>;
export function choice<const T extends string>(
  flags: string,
  choices: readonly T[],
  help: string,
  value?: T,
): OptionSpec<T | undefined> {
  return { flags, help, choices, default: value };
}

interface Range {
  readonly min?: number;
  readonly max?: number;
}

const within = (x: number, { min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY }: Range): boolean =>
  x >= min && x <= max;

const inWords = (kind: string, { min, max }: Range): string =>
  `${kind}${min === undefined ? "" : ` from ${min}`}${max === undefined ? "" : ` to ${max}`}`;

function numeric(
  kind: string,
  flags: string,
  help: string,
  range: Range & { readonly default?: number },
  fits: (x: number) => boolean,
): OptionSpec<number> {
  return {
    flags,
    help,
    default: range.default,
    expects: inWords(kind, range),
    parse: (given) => {
      const x = given.trim() === "" ? Number.NaN : Number(given);
      return fits(x) && within(x, range) ? x : undefined;
    },
  };
}

/** A whole number; from 1 unless `min` says otherwise. */
export function integer(flags: string, help: string, range?: Range): OptionSpec<number | undefined>;
export function integer(flags: string, help: string, range: Range & { readonly default: number }): OptionSpec<number>;
export function integer(
  flags: string,
  help: string,
  range: Range & { readonly default?: number } = {},
): OptionSpec<number | undefined> {
  return numeric("a whole number", flags, help, { min: 1, ...range }, Number.isSafeInteger);
}

/** Any finite number. */
export function decimal(flags: string, help: string, range?: Range): OptionSpec<number | undefined>;
export function decimal(flags: string, help: string, range: Range & { readonly default: number }): OptionSpec<number>;
export function decimal(
  flags: string,
  help: string,
  range: Range & { readonly default?: number } = {},
): OptionSpec<number | undefined> {
  return numeric("a number", flags, help, range, Number.isFinite);
}

/** Finite numbers with commas between them. */
export const decimals = (flags: string, help: string): OptionSpec<readonly number[] | undefined> => ({
  flags,
  help,
  expects: "numbers with commas between them",
  parse: (given) => {
    const list = given.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
    return list.every(Number.isFinite) ? list : undefined;
  },
});
