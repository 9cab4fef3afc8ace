/**
 * How ONNX Runtime's binding moves tensors: run it after every upgrade of `onnxruntime-node`.
 *
 *   npx tsx bench/io.ts [--megabytes 256] [--json]
 *
 * The training step rests on these answers (feeds are not copied, preallocated outputs are written in place); the
 * expected ones are those of the pinned version. Exits with 1 when an answer has changed.
 */
import { createRequire } from "node:module";
import type * as Ort from "onnxruntime-common";
import { encodeOnnx, type OnnxModel } from "../src/onnx/index.ts";
import { Tensor } from "../src/tensor/index.ts";

const require = createRequire(import.meta.url);
const ort = require("onnxruntime-node") as typeof Ort;
const { version } = require("onnxruntime-node/package.json") as { version: string };

const option = (name: string, fallback: number): number => {
  const at = process.argv.indexOf(name);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
};
const json = process.argv.includes("--json");
const size = Math.round((option("--megabytes", 256) * 1e6) / 4);

const io = (name: string, shape: readonly number[]) => ({ name, dtype: "float32" as const, shape });
const model = (opType: string, outShape: readonly number[], scalar: boolean): OnnxModel => ({
  nodes: [
    {
      opType,
      inputs: scalar ? ["x", "factor"] : ["x"],
      outputs: ["y"],
      name: opType,
      attrs: opType === "ReduceSum" ? { keepdims: 0 } : {},
    },
  ],
  inputs: [io("x", [size])],
  outputs: [io("y", outShape)],
  initializers: scalar ? new Map([["factor", Tensor.float32([1], [2])]]) : new Map(),
  opset: 17,
});

const session = (m: OnnxModel): Promise<Ort.InferenceSession> =>
  ort.InferenceSession.create(encodeOnnx(m), { intraOpNumThreads: 2, logSeverityLevel: 3 });

/** Median milliseconds of a few runs. */
async function median(body: () => Promise<unknown>, runs = 7): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await body();
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[runs >> 1];
}

const x = new ort.Tensor("float32", new Float32Array(size).fill(1), [size]);
const out = new ort.Tensor("float32", new Float32Array(size), [size]);
const reduce = await session(model("ReduceSum", [], false));
const scale = await session(model("Mul", [size], true));

const reduceMs = await median(() => reduce.run({ x }));
const copyMs = await median(async () => void new Float32Array(size).set(x.data as Float32Array));
const scaleMs = await median(() => scale.run({ x }, { y: out }));
const returned = (await scale.run({ x }, { y: out })).y;
/** Longest time in which nothing else could run on this thread while the session ran. */
const blockedMs = await (async () => {
  let longest = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 1);
  await scale.run({ x }, { y: out });
  longest = Math.max(longest, performance.now() - last);
  clearInterval(timer);
  return longest;
})();
const shared = await (async () => {
  try {
    const buffer = new Float32Array(new SharedArrayBuffer(size * 4)) as unknown as Float32Array<ArrayBuffer>;
    await reduce.run({ x: new ort.Tensor("float32", buffer, [size]) });
    return true;
  } catch {
    return false;
  }
})();

interface Answer {
  readonly question: string;
  readonly answer: boolean;
  readonly expected: boolean;
  readonly measured: string;
}

const gbPerSecond = (ms: number): string => `${((size * 4) / 1e6 / ms).toFixed(1)} GB/s`;
const answers: Answer[] = [
  {
    question: "CPU feeds are read without a copy",
    // A copy would cost at least as much again as reading.
    answer: reduceMs < copyMs,
    expected: true,
    measured: `sum ${reduceMs.toFixed(1)} ms (${gbPerSecond(reduceMs)}), copy ${copyMs.toFixed(1)} ms`,
  },
  {
    question: "preallocated outputs are written in place",
    answer: (out.data as Float32Array)[size - 1] === 2,
    expected: true,
    measured: `scale ${scaleMs.toFixed(1)} ms`,
  },
  {
    question: "the returned tensor is the preallocated one",
    answer: (returned.data as Float32Array).buffer === (out.data as Float32Array).buffer,
    expected: false,
    measured: "a copy in a buffer of its own",
  },
  {
    question: "run() works on the calling thread, so nothing else runs there",
    answer: blockedMs > scaleMs / 2,
    expected: true,
    measured: `the event loop stood still for ${blockedMs.toFixed(1)} ms`,
  },
  { question: "SharedArrayBuffer feeds are accepted", answer: shared, expected: false, measured: "" },
];

const changed = answers.filter((a) => a.answer !== a.expected);
if (json) console.log(JSON.stringify({ version, megabytes: (size * 4) / 1e6, answers }));
else {
  console.log(`onnxruntime-node ${version}, ${(size * 4) / 1e6} MB tensors`);
  for (const { question, answer, expected, measured } of answers)
    console.log(`${answer === expected ? "same   " : "CHANGED"} ${question}: ${answer ? "yes" : "no"}  ${measured}`);
  if (changed.length)
    console.log("The state handling in src/runtime/program.ts rests on these: read it before upgrading.");
}
process.exitCode = changed.length ? 1 : 0;
