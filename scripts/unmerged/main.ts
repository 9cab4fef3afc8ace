/**
 * Networks that others trained and whose branches are still in their files: `repmlp convert --blocks` on each, compared
 * with the authors' own merged form where there is one, and with the outputs of the network as it was stored.
 *
 *   npm run unmerged -- DIR
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { type ConvertBlocksOptions, convertBlocksFile } from "../../src/convert/node/blocks-file.ts";
import { type Net, toDtype, traceModel } from "../../src/nn/index.ts";
import { openCheckpointFile, openOnnx } from "../../src/node.ts";
import { encodeOnnx, type OnnxModel } from "../../src/onnx/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { compile } from "../../src/runtime/index.ts";
import { rng, sameShape, Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { absMax, type CaseCheck, maxDifference, runCase } from "../conformance/report.ts";
import { ECBSR, MobileIE, RVSR } from "./networks.ts";
import { readNpz } from "./npz.ts";

const [folder] = process.argv.slice(2).filter((a) => a !== "--");
if (!folder || !existsSync(folder)) {
  console.error(folder ? `unmerged: there is no folder ${folder}` : "usage: npm run unmerged -- DIR");
  process.exit(2);
}
const scratch = mkdtempSync(join(tmpdir(), "repmlp-unmerged-"));

type Entries = ReadonlyMap<string, TensorSource>;
const all = "*";

async function converted(file: string, options: ConvertBlocksOptions): Promise<Entries> {
  const out = join(scratch, `${file.replaceAll("/", "-")}.pth`);
  await convertBlocksFile(join(folder, file), out, options);
  return (await openCheckpointFile(out)).entries;
}

async function outputOf(model: Net, x: Tensor): Promise<Tensor> {
  const net = toDtype(model, "float64");
  const { output, names } = traceModel(net, x.shape, { dtype: "float64" });
  await using program = await compile({ outputs: { output } }, { names });
  return (await program.run({ input: x.cast("float64") })).output;
}

/** Output of a network as it is stored, and of its plain form with the merged file's weights, beside what is expected. */
async function checkOutputs(
  check: CaseCheck,
  make: () => Net,
  file: string,
  { prefix = "" }: { readonly prefix?: string },
  merged: Entries,
): Promise<void> {
  const expected = readNpz(join(folder, `${file}.expected.npz`));
  const [x, y] = [expected.get("x")!, expected.get("y64")!];
  using stored = await openCheckpointFile(join(folder, file));
  const model = make().eval();
  model.loadStateDict(new Map([...stored.entries].map(([key, t]) => [key.slice(prefix.length), t])));
  check.near("output as stored", await outputOf(model, x), y, 1e-9 * Math.max(1, absMax(y)));
  const plain = convertToDeploy(make().initialize().eval());
  plain.loadStateDict(merged);
  check.near("output of the merged file", await outputOf(plain, x), y, 2e-6 * Math.max(1, absMax(y)));
}

/** Every entry beside the authors' own, by key. */
async function checkWeights(check: CaseCheck, merged: Entries, file: string, tolerance: number): Promise<void> {
  using theirs = await openCheckpointFile(join(folder, file));
  check.equal("keys", [...merged.keys()].sort(), [...theirs.entries.keys()].sort());
  for (const [key, t] of theirs.entries) check.near(key, merged.get(key)!.readSync(), t.readSync(), tolerance);
}

/** Convolutions of an ONNX file. */
const convsOf = ({ nodes, initializers }: OnnxModel) =>
  nodes
    .filter((node) => node.opType === "Conv")
    .map(({ inputs: [, w, b] }) => ({ w, b, weight: initializers.get(w)!, bias: initializers.get(b)! }));

/** Each convolution of the authors' merged ONNX file beside the one of ours that is nearest, one to one. */
async function checkOnnx(check: CaseCheck, merged: Entries, file: string, tolerance: number) {
  const model = await openOnnx(join(folder, file));
  const layers = [...merged.keys()].filter((k) => k.endsWith(".weight")).map((k) => k.slice(0, -".weight".length));
  const left = new Set(layers);
  const places = new Map<string, string>();
  for (const { w, b, weight, bias } of convsOf(model)) {
    const distance = (layer: string): number => {
      const own = [merged.get(`${layer}.weight`)!, merged.get(`${layer}.bias`)!];
      if (!sameShape(own[0].shape, weight.shape)) return Number.POSITIVE_INFINITY;
      return Math.max(
        maxDifference(own[0].readSync(), weight.readSync()),
        maxDifference(own[1].readSync(), bias.readSync()),
      );
    };
    const [nearest] = [...left].map((layer) => [layer, distance(layer)] as const).sort((a, b2) => a[1] - b2[1]);
    check.within(nearest[0], nearest[1], tolerance);
    left.delete(nearest[0]);
    places.set(w, `${nearest[0]}.weight`).set(b, `${nearest[0]}.bias`);
  }
  check.equal("layers that the authors' file has none for", [...left], []);
  return { model, places };
}

async function run(model: OnnxModel, x: Tensor): Promise<Record<string, ort.Tensor>> {
  const session = await ort.InferenceSession.create(encodeOnnx(model), { logSeverityLevel: 3 });
  const results = await session.run({
    [session.inputNames[0]]: new ort.Tensor("float32", x.data as Float32Array, [...x.shape]),
  });
  await session.release();
  return { ...results };
}

const cases: readonly (readonly [id: string, body: (check: CaseCheck) => Promise<void>])[] = [
  [
    "RVSR: repeated branches without batch norm, in a file of PyTorch Lightning",
    async (check) => {
      const file = "RVSR/pretrained.ckpt";
      const merged = await converted(file, { prefix: "network." });
      await checkWeights(check, merged, "RVSR/RVSR_rep.pth", 1e-6);
      await checkOutputs(check, () => new RVSR(), file, { prefix: "network." }, merged);
    },
  ],
  [
    "ECBSR: edge blocks",
    async (check) => {
      const file = "eSR-ANY/model_x2_ECBSR_64.pt";
      const merged = await converted(file, { identity: [{ pattern: all, value: false }] });
      await checkOutputs(check, () => new ECBSR(), file, {}, merged);
    },
  ],
  [
    "MobileIE: kernels side by side",
    async (check) => {
      const file = "MobileIE/lolv1-ec-fg-hdpa_model_best.pkl";
      const merged = await converted(file, { eps: [{ pattern: all, value: 1e-5 }] });
      await checkOutputs(check, () => new MobileIE(), file, {}, merged);
    },
  ],
  [
    "UltraFace: convolutions with batch norm",
    async (check) => {
      const merged = await converted("UltraFace/version-slim-320.pth", { eps: [{ pattern: all, value: 1e-5 }] });
      const { model, places } = await checkOnnx(check, merged, "UltraFace/version-slim-320_simplified.onnx", 5e-7);
      const own = new Map([...model.initializers].map(([name, t]) => [name, merged.get(places.get(name) ?? "") ?? t]));
      const unmerged = await openOnnx(join(folder, "UltraFace/version-slim-320.onnx"));
      const random = rng(1, "faces");
      const x = Tensor.float32(
        [1, 3, 240, 320],
        Float32Array.from({ length: 3 * 240 * 320 }, () => 2 * random.next() - 1),
      );
      const [actual, expected] = [await run({ ...model, initializers: own }, x), await run(unmerged, x)];
      const scores = ({ scores: { data, dims } }: Record<string, ort.Tensor>): Tensor =>
        Tensor.float32([...dims], data as Float32Array);
      check.near("scores of the merged network", scores(actual), scores(expected), 2e-6);
    },
  ],
  [
    "FastestDet: convolutions with batch norm",
    async (check) => {
      const file = "FastestDet/weight_AP05_0.253207_280-epoch.pth";
      const merged = await converted(file, { eps: [{ pattern: all, value: 1e-5 }] });
      await checkOnnx(check, merged, "FastestDet/FastestDet.onnx", 2e-6);
    },
  ],
  [
    "ZenoSR: which of two state dicts is the user's to say",
    async (check) => {
      const file = "NTIRE2026_ESR/team04_ZenoSR.pth";
      const why = async (options: ConvertBlocksOptions): Promise<string> =>
        await converted(file, options).then(
          () => "converted",
          (error: Error) => error.message,
        );
      check.equal("asked", /several of its keys hold tensors: params, params_ema/.test(await why({})), true);
      const none = await why({ key: "params_ema" });
      check.equal("taken, and without a known block", /holds no block that is known by its keys/.test(none), true);
    },
  ],
];

const counts = { passed: 0, failed: 0, skipped: 0 };
try {
  for (const [id, body] of cases) {
    const result = await runCase(id, body);
    counts[result.status]++;
    console.log(`${result.status.padEnd(7)} ${id}: ${result.detail}`);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed || !counts.passed ? 1 : 0;
