import { must, RepmlpError } from "../../src/errors.ts";
import { Comparison } from "../../src/inference/index.ts";
import type { Tensor, TensorSource } from "../../src/tensor/index.ts";

/** What became of one case. */
export interface CaseResult {
  readonly id: string;
  readonly status: "passed" | "failed" | "skipped";
  /** Largest error found, as a share of its tolerance: 1 and below passes. */
  readonly worst?: number;
  /** Error and tolerance of the worst check, or why it was skipped. */
  readonly detail: string;
}

/** Collects the checks of one case and keeps the worst. */
export class CaseCheck {
  private worst = -1;
  private detail = "no check ran";
  private failure: string | undefined;
  private readonly notes: string[] = [];

  constructor(readonly id: string) {}

  /** Compares values with an absolute tolerance; counts and shapes must be equal. */
  near(what: string, actual: Tensor, expected: Tensor, tolerance: number): void {
    if (actual.size !== expected.size) this.fail(`${what}: ${actual.size} values, expected ${expected.size}`);
    else this.within(what, maxDifference(actual, expected), tolerance);
  }

  /** Checks an error against its tolerance. */
  within(what: string, error: number, tolerance: number): void {
    const share = error / tolerance;
    if (!(share <= this.worst)) {
      this.worst = share;
      this.detail = `${what}: ${error.toExponential(2)} (tolerance ${tolerance.toExponential(1)})`;
    }
    if (!(share <= 1)) this.fail(`${what}: error ${error.toExponential(2)} is above ${tolerance.toExponential(1)}`);
  }

  /** Checks exact equality. */
  equal(what: string, actual: unknown, expected: unknown): void {
    const [a, e] = [actual, expected].map((v) => JSON.stringify(v));
    if (this.worst < 0) {
      this.worst = 0;
      this.detail = `${what}: exact`;
    }
    if (a !== e) this.fail(`${what}: ${a}, expected ${e}`);
  }

  /** Adds a remark to the result. */
  note(text: string): void {
    this.notes.push(text);
  }

  /** Hands a record of arguments to `body`; one that it did not look at is not understood, and fails the case. */
  allRead<A extends Readonly<Record<string, unknown>>, T>(what: string, args: A, body: (args: A) => T): T {
    const read = new Set<string>();
    const made = body(
      new Proxy(args, {
        get: (target, key) => {
          read.add(String(key));
          return target[String(key)];
        },
      }),
    );
    const left = Object.keys(args).filter((key) => !read.has(key));
    if (left.length) this.fail(`${what} not understood: ${left.join(", ")}`);
    return made;
  }

  fail(why: string): void {
    this.failure ??= why;
  }

  get result(): CaseResult {
    const { id, failure } = this;
    if (failure) return { id, status: "failed", worst: this.worst, detail: failure };
    if (this.worst < 0) return { id, status: "failed", detail: "no check ran" };
    return { id, status: "passed", worst: this.worst, detail: [this.detail, ...this.notes].join("; ") };
  }
}

/** Reads a tensor that a case must have. */
export const reader =
  (tensors: ReadonlyMap<string, TensorSource>) =>
  (key: string): Tensor => {
    const source = tensors.get(key);
    must(source !== undefined, "conformance/tensor", () => `the file of the case holds no tensor "${key}"`, "file");
    return source.readSync();
  };

/** Message of an error; of one that nobody raised on purpose, with where it came from. */
export const messageOf = (error: unknown): string => {
  if (error instanceof RepmlpError) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
};

/** Runs the checks of one case; an exception fails it. */
export async function runCase(id: string, body: (check: CaseCheck) => Promise<void>): Promise<CaseResult> {
  const check = new CaseCheck(id);
  try {
    await body(check);
  } catch (error) {
    check.fail(messageOf(error));
  }
  return check.result;
}

/** A case whose file cannot be read fails; the others go on. */
export async function readCase<T>(
  id: string,
  read: () => Promise<T>,
  body: (content: T) => Promise<CaseResult>,
): Promise<CaseResult> {
  let content: T;
  try {
    content = await read();
  } catch (error) {
    return { id, status: "failed", detail: messageOf(error) };
  }
  return body(content);
}

/** Largest absolute difference; NaN anywhere, or another number of values, gives NaN. */
export const maxDifference = (a: Tensor, b: Tensor): number =>
  a.size === b.size ? new Comparison().add(a.toFloat64(), b.toFloat64()).maxAbs : Number.NaN;

/** Largest absolute value. */
export const absMax = (t: Tensor): number => t.toFloat64().reduce((m, v) => Math.max(m, Math.abs(v)), 0);

/** Entries whose key starts with `prefix`, without it. */
export const withPrefix = (tensors: ReadonlyMap<string, TensorSource>, prefix: string): Map<string, Tensor> =>
  new Map(
    [...tensors].filter(([key]) => key.startsWith(prefix)).map(([key, t]) => [key.slice(prefix.length), t.readSync()]),
  );
