import { growthExponent, type Outcome } from "./stats.ts";

/** Plain JSON, as it goes to a contestant. */
export type Options = Readonly<Record<string, unknown>>;

/** A process that stays alive for a case, gets ready once and then runs whenever it is its turn. */
export interface Child {
  readonly kind: "child";
  /** `node` is this package or a rival in Node, `python` is PyTorch, `chromium` a page of a headless browser. */
  readonly runtime: "node" | "python" | "chromium";
  /** Which of the runtime's tasks. */
  readonly task: string;
  readonly options: Options;
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
}

/** Results of a case by contestant; one that could not run is not there. */
export type Outcomes = ReadonlyMap<string, Outcome>;

/** A number that a case yields, and how good it should be. */
export interface Figure {
  readonly name: string;
  /** Undefined when a contestant that it needs is not there. */
  readonly value: (outcomes: Outcomes) => number | undefined;
  readonly unit: "×" | "%" | "s" | "ms" | "";
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
  /** A Python that has PyTorch. */
  readonly python: string | undefined;
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

/** PyTorch, where there is one. */
export const inPython = (
  { python }: Context,
  task: string,
  options: Options,
  items?: Contestant["items"],
): Contestant[] =>
  python
    ? [{ name: "PyTorch", does: { kind: "child", runtime: "python", task, options }, ...(items && { items }) }]
    : [];

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
