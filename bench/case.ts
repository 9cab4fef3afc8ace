import { growthExponent, type Outcome } from "./stats.ts";

/** Plain JSON, as it goes to a contestant. */
export type Options = Readonly<Record<string, unknown>>;

/** A process that stays alive for a case, gets ready once and then runs whenever it is its turn. */
export type Child = {
  readonly kind: "child";
  /** Which of the runtime's tasks. */
  readonly task: string;
  readonly options: Options;
} & (
  | {
      /** This package or a rival in Node; a page of a headless browser. */
      readonly runtime: "node" | "chromium";
    }
  | {
      /** PyTorch, in this interpreter. */
      readonly runtime: "python";
      readonly program: string;
    }
);

/** A Python interpreter that has PyTorch. */
export interface Python {
  readonly program: string;
  /** Major and minor version of PyTorch, such as 1.13. */
  readonly torch: string;
}

/** A program that is started anew for every run and timed from its start to its end. */
export interface Program {
  readonly kind: "program";
  readonly command: string;
  readonly args: readonly string[];
  /** File that it must write. It is removed before every run. */
  readonly writes?: string;
}

export interface Contestant {
  readonly name: string;
  readonly does: Child | Program;
  /** What one run gets done, for a throughput. */
  readonly items?: { readonly count: number; readonly unit: string };
  /** Contestants with equal `heat` run once each, one after the other; only the fastest of them races. */
  readonly heat?: string;
}

/** Results of a case by contestant; one that could not run is not there. */
export type Outcomes = ReadonlyMap<string, Outcome>;

/** A number that a case yields, and how good it should be. */
export interface Figure {
  readonly name: string;
  /** Undefined when a contestant that it needs is not there. */
  readonly value: (outcomes: Outcomes) => number | undefined;
  readonly unit: "×" | "%" | "s" | "ms" | "";
  /** Whose number it is, where that is found out by measuring. */
  readonly note?: (outcomes: Outcomes) => string | undefined;
  /** The least that is wanted, and what is aimed at; without them the figure is for information. */
  readonly floor?: number;
  readonly aim?: number;
  /** Whether smaller is better; default larger. */
  readonly smaller?: boolean;
}

export interface Case {
  /** `suite/name`. */
  readonly name: string;
  /** One line: what is done, in which size. */
  readonly about: string;
  /** Ours first. They take turns in this order. */
  readonly contestants: readonly Contestant[];
  readonly figures: readonly Figure[];
  /** Makes the files that the contestants need. */
  readonly setUp?: () => Promise<void>;
  /** Only run when asked for: it needs much memory or time. */
  readonly large?: boolean;
  /** Work of several sizes side by side: only contestants with equal options must agree on the result. */
  readonly sizes?: boolean;
}

/** The cases whose name contains one of the patterns, in their own order, and the patterns that fit none. */
export function matching<T extends { readonly name: string }>(
  cases: readonly T[],
  patterns: readonly string[],
): { readonly cases: readonly T[]; readonly unmatched: readonly string[] } {
  const fits = ({ name }: T, pattern: string): boolean => name.includes(pattern);
  return {
    cases: patterns.length ? cases.filter((one) => patterns.some((p) => fits(one, p))) : cases,
    unmatched: patterns.filter((p) => !cases.some((one) => fits(one, p))),
  };
}

/** What the suites need to know to list their cases. */
export interface Context {
  readonly threads: number;
  /** Pythons that have PyTorch. The first one stands for PyTorch where only one takes part. */
  readonly pythons: readonly Python[];
  /** Names of `ways` in which PyTorch's user may write a network, besides the original one. */
  readonly ways: readonly Way[];
  /** Chromium to run pages in. */
  readonly chromium: string | undefined;
  /** Folder for files; removed at the end. */
  readonly scratch: string;
  /** Pictures in one folder per class. Default: those of the tests. */
  readonly data: string | undefined;
  /** Checkpoint of RepMLP-Res50-light-224 in training form. Default: one made by a formula. */
  readonly train: string | undefined;
}

/** Name of our contestant. */
export const own = "repmlp";

/** This package, or a rival that runs in Node. */
export const inNode = (name: string, task: string, options: Options, items?: Contestant["items"]): Contestant => ({
  name,
  does: { kind: "child", runtime: "node", task, options },
  ...(items && { items }),
});

/** PyTorch, where there is one: the first. */
export const inPython = (
  { pythons }: Context,
  task: string,
  options: Options,
  items?: Contestant["items"],
): Contestant[] =>
  pythons.slice(0, 1).map(({ program }) => ({
    name: "PyTorch",
    does: { kind: "child", runtime: "python", program, task, options },
    ...(items && { items }),
  }));

/** How PyTorch's user may write a network: what `bench/pytorch/contestant.py` is told. */
export const ways = {
  original: { products: "grouped", channels_last: false },
  "original-channels-last": { products: "grouped", channels_last: true },
  batched: { products: "batched", channels_last: false },
  "batched-channels-last": { products: "batched", channels_last: true },
  split: { products: "split", channels_last: false },
  "split-channels-last": { products: "split", channels_last: true },
} as const satisfies Record<
  string,
  { readonly products: "grouped" | "batched" | "split"; readonly channels_last: boolean }
>;
export type Way = keyof typeof ways;

const wording = {
  grouped: "as the original writes it",
  batched: "batched and dense products",
  split: "one convolution per group",
} as const;

const nameOfWay = (torch: string, way: Way): string => {
  const { products, channels_last } = ways[way];
  return `PyTorch ${torch}, ${wording[products]}${channels_last ? ", channels_last" : ""}`;
};

/** PyTorch at its best beside PyTorch as the original code is written. */
export interface BestOfPython {
  readonly contestants: readonly Contestant[];
  /** Both ratios; the limits are those of the original. */
  readonly figures: (limits?: Limits, ofFastest?: Limits) => readonly Figure[];
  /** Name of the contestant that does as the original. */
  readonly original: string;
}

/**
 * As the original writes it in the first Python, and the fastest of all other ways and Pythons, found in a heat.
 * Without groups in the network (`grouped`) the ways to compute groups are one.
 */
export function bestInPython(
  { pythons, ways: chosen }: Context,
  task: string,
  options: Options,
  { items, grouped = true }: { readonly items?: Contestant["items"]; readonly grouped?: boolean } = {},
): BestOfPython {
  const original = pythons.length ? nameOfWay(pythons[0].torch, "original") : `PyTorch, ${wording.grouped}`;
  const fits = (way: Way): boolean => grouped || ways[way].products === "grouped";
  const contestants = pythons.flatMap(({ program, torch }) =>
    (["original", ...chosen.filter((way) => way !== "original")] as const).filter(fits).map((way): Contestant => {
      const name = nameOfWay(torch, way);
      const does = { kind: "child", runtime: "python", program, task, options: { ...options, ...ways[way] } } as const;
      return { name, does, ...(items && { items }), ...(name !== original && { heat: "PyTorch" }) };
    }),
  );
  const names = new Set(contestants.map(({ name }) => name));
  return {
    contestants,
    original,
    figures: (limits = {}, ofFastest = { aim: 1 }) => [
      timesFaster(original, limits),
      {
        name: "fastest PyTorch ÷ ours",
        unit: "×",
        value: (outcomes) => quotient(fastest(outcomes, names)?.median, outcomes.get(own)?.median),
        note: (outcomes) => fastest(outcomes, names)?.name,
        ...ofFastest,
      },
    ],
  };
}

/** The one of some contestants with the smallest median, of those that raced. */
const fastest = (outcomes: Outcomes, names: ReadonlySet<string>): Outcome | undefined =>
  [...outcomes.values()].filter(({ name }) => names.has(name)).sort((a, b) => a.median - b.median)[0];

/** In a page of headless Chromium, where there is one. */
export const inChromium = ({ chromium }: Context, name: string, task: string, options: Options): Contestant[] =>
  chromium ? [{ name, does: { kind: "child", runtime: "chromium", task, options } }] : [];

type Limits = Pick<Figure, "floor" | "aim">;

/** How many times as long another contestant takes. */
export const timesFaster = (than: string, limits: Limits = {}, us = own): Figure => ({
  name: us === own ? `${than} ÷ ours` : `${than} ÷ ${us}`,
  unit: "×",
  value: (outcomes) => quotient(outcomes.get(than)?.median, outcomes.get(us)?.median),
  ...limits,
});

/** A quotient, where both are known. */
export const quotient = (a: number | undefined, b: number | undefined): number | undefined =>
  a !== undefined && b !== undefined && b > 0 ? a / b : undefined;

/** The power of a size with which the time grows, over contestants that differ in that size alone. */
export const growth = (
  name: string,
  sizes: readonly { readonly size: number; readonly contestant: string }[],
): Figure => ({
  name,
  unit: "",
  value: (outcomes) => {
    const points = sizes.flatMap(({ size, contestant }): [number, number][] => {
      const outcome = outcomes.get(contestant);
      return outcome ? [[size, outcome.median]] : [];
    });
    return points.length === sizes.length ? growthExponent(points) : undefined;
  },
});
