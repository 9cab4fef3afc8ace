import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  constant,
  conv2d,
  grad,
  input,
  lower,
  reshape,
  type Target,
  targets,
  type Value,
} from "../../src/graph/index.ts";
import { type CompileOptions, compileModel, type Program } from "../../src/runtime/index.ts";
import { isFloating, type Shape, sizeOf, Tensor } from "../../src/tensor/index.ts";
import { type Condition, makeInput, weightedSum } from "./inputs.ts";
import { type Build, builds, type OpOptions } from "./ops.ts";

/** An op with shapes; it is measured under every condition. */
export interface Case {
  readonly name: string;
  readonly op: string;
  readonly inputs: Readonly<Record<string, Shape>>;
  readonly options?: OpOptions;
}

/** PyTorch's results for one tensor. */
export interface Recorded {
  readonly largest: number;
  /** Largest difference between its float32 and its float64. */
  readonly error: number;
  /** Its float64 values, summed with formula weights. */
  readonly sum: number;
}

/** What pytorch.py writes; entries by "case: condition", then by tensor. */
export interface Recording {
  readonly pytorch: string;
  readonly entries: Readonly<Record<string, Readonly<Record<string, Recorded>>>>;
}

/** One tensor of one case under one condition: errors against float64 as shares of its largest value. */
export interface Entry {
  readonly case: string;
  readonly condition: string;
  /** `y`, `mean`, `variance`, or `d` and the input. */
  readonly tensor: string;
  readonly largest: number;
  /** Our errors by way. */
  readonly ours: Readonly<Record<string, number>>;
  readonly pytorch: number;
  /** Twice PyTorch's and 5e-6. */
  readonly allowed: number;
  /** Why the entry fails, if it does. */
  readonly failure?: string;
  /** Why it is above what is allowed although it does not fail: {@link Known}. */
  readonly known?: string;
}

/** Entries that are known to be above what is allowed, up to `times` PyTorch's error and 5e-6. */
interface Known {
  readonly cases: readonly string[];
  readonly conditions: readonly string[];
  readonly tensors: readonly string[];
  readonly times: number;
  readonly why: string;
}

/** A way to compute a case in float32. */
export interface Way {
  readonly target: Target;
  /** Whether images come batch-last, as from the layer before. */
  readonly batchLast?: boolean;
  readonly compile?: CompileOptions;
}

export const cpuWays: Readonly<Record<string, Way>> = {
  cpu: { target: targets.cpuTraining, batchLast: true },
  "cpu, images first": { target: targets.cpuTraining },
  "for webgpu": { target: targets.webgpuTraining },
};

const folder = import.meta.dirname;
export const { conditions, cases, known } = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8")) as {
  readonly conditions: Readonly<Record<string, Condition>>;
  readonly cases: readonly Case[];
  readonly known: readonly Known[];
};

export const readRecording = (): Recording =>
  JSON.parse(readFileSync(join(folder, "../../test/fixtures/precision/pytorch.json"), "utf8"));

/** Not differentiated: given statistics, classes. */
const fixed = ["mean", "variance", "labels"];

/** The same values from a 1×1 convolution with the identity, which the CPU target computes batch-last. */
function viaConvolution(x: Value): Value {
  const [n, c, ...rest] = x.shape;
  const eye = Float64Array.from({ length: c * c }, (_, i) => (i % (c + 1) === 0 ? 1 : 0));
  const image = reshape(x, [n, c, sizeOf(rest), 1]);
  return reshape(conv2d(image, constant(Tensor.of(x.dtype, [c, c, 1, 1], eye))), x.shape);
}

type FloatDType = "float32" | "float64";

interface Compiled {
  readonly program: Program;
  /** Of the inputs, by name. */
  readonly shapes: ReadonlyMap<string, Shape>;
}

/** A case compiled for one way; with a build of one's own in place of the op's. */
async function compileCase(
  { inputs, options = {} }: Case,
  dtype: FloatDType,
  way: Way,
  build: Build,
): Promise<Compiled> {
  const turn = (v: Value): Value => (way.batchLast && v.shape.length === 4 ? viaConvolution(v) : v);
  const leaves = Object.fromEntries(
    Object.entries(inputs).map(([name, shape]) => [name, input(name, shape, name === "labels" ? "int64" : dtype)]),
  );
  const made = build({ ...leaves, x: turn(leaves.x) }, options);
  const wrt = Object.keys(inputs).filter((name) => !fixed.includes(name));
  const { y } = made;
  const dy = y.shape.length ? turn(input("dy", y.shape, dtype)) : undefined;
  const gradients = grad(
    y,
    wrt.map((name) => leaves[name]),
    dy,
  );
  const outputs = { ...made, ...Object.fromEntries(gradients.map((g, i) => [`d${wrt[i]}`, g])) };
  const { model } = lower({ outputs }, { target: way.target });
  // Float64 runs as written: it is what the others are compared with.
  const session = dtype === "float64" ? { graphOptimizationLevel: "disabled" as const } : {};
  const compile = { threads: 1, ...way.compile, session: { ...session, ...way.compile?.session } };
  return {
    program: await compileModel(model, compile),
    shapes: new Map(model.inputs.map((i) => [i.name, i.shape as Shape])),
  };
}

type Results = Readonly<Record<string, Float64Array>>;

async function runCase(
  { program, shapes }: Compiled,
  { inputs }: Case,
  condition: Condition,
  dtype: FloatDType,
): Promise<Results> {
  const classes = inputs.x.at(-1)!;
  const feeds = Object.fromEntries(
    [...shapes].map(([name, shape]) => [name, makeInput(name, shape, condition, { dtype, classes })]),
  );
  const results = await program.run(feeds);
  return Object.fromEntries(
    Object.entries(results).map(([name, tensor]) => {
      if (!isFloating(tensor.dtype)) throw new Error(`${name} is ${tensor.dtype}`);
      return [name, tensor.toFloat64()];
    }),
  );
}

/** Largest difference; infinite where one of the two is not a number. */
const distance = (a: Float64Array, b: Float64Array): number =>
  a.reduce((worst, v, i) => {
    const d = Math.abs(v - b[i]);
    return Number.isNaN(d) ? Number.POSITIVE_INFINITY : Math.max(worst, d);
  }, 0);

const largestOf = (values: Float64Array): number => values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);

/** Float64 here and there may differ by this share of the largest value, as often as the worst condition needs. */
const exactness = 1e-7;

/**
 * Errors of a case against float64 under every condition, beside PyTorch's. The float64 values are ours, checked against
 * PyTorch's float64.
 */
export async function measureCase(
  testCase: Case,
  recording: Recording,
  { ways = cpuWays, build = builds[testCase.op] }: { ways?: Readonly<Record<string, Way>>; build?: Build } = {},
): Promise<Entry[]> {
  const entries: Entry[] = [];
  const reference = { target: targets.cpuTraining };
  const exactly = await compileCase(testCase, "float64", reference, builds[testCase.op]);
  const programs = await Promise.all(
    Object.entries(ways).map(
      async ([name, way]) => [name, await compileCase(testCase, "float32", way, build)] as const,
    ),
  );
  try {
    for (const [condition, values] of Object.entries(conditions)) {
      const recorded = recording.entries[`${testCase.name}: ${condition}`];
      if (!recorded) throw new Error(`PyTorch's results lack "${testCase.name}: ${condition}". Run pytorch.py anew.`);
      const exact = await runCase(exactly, testCase, values, "float64");
      const results: [string, Results][] = [];
      for (const [name, program] of programs) results.push([name, await runCase(program, testCase, values, "float32")]);
      for (const [tensor, { error, sum }] of Object.entries(recorded)) {
        const largest = largestOf(exact[tensor]);
        const share = (e: number): number => (e === 0 ? 0 : e / largest);
        const ours = Object.fromEntries(results.map(([way, r]) => [way, share(distance(r[tensor], exact[tensor]))]));
        const [pytorch, allowed] = [share(error), 2 * share(error) + 5e-6];
        const above = Object.entries(ours).flatMap(([way, e]) => (e <= allowed ? [] : [way]));
        const exception = known.find(
          (k) => k.cases.includes(testCase.name) && k.conditions.includes(condition) && k.tensors.includes(tensor),
        );
        const tolerated = exception && Object.values(ours).every((e) => e <= exception.times * pytorch + 5e-6);
        const off = share(Math.abs(weightedSum(exact[tensor]) - sum) / Math.sqrt(exact[tensor].length));
        const failures = [
          ...(tolerated ? [] : above),
          ...(off <= exactness ? [] : [`float64, by ${off.toExponential(1)}`]),
        ];
        entries.push({
          ...{ case: testCase.name, condition, tensor, largest, ours, pytorch, allowed },
          ...(failures.length && { failure: failures.join(", ") }),
          ...(tolerated && above.length && { known: exception.why }),
        });
      }
    }
  } finally {
    for (const { program } of [exactly, ...programs.map(([, p]) => p)]) await program.dispose();
  }
  return entries;
}
