import { fmt, must } from "../../errors.ts";
import { randomInputs, readMetadata } from "../../inference/index.ts";
import { openOnnx } from "../../inference/node/index.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import { inspectQuantized, type QuantizedInspection } from "../../quantize/index.ts";
import { cpuFeatures, saturates } from "../cpu-features.ts";
import type { Io } from "../io.ts";

/** Differences of outputs that are rounding, as a part of the largest. */
const ROUNDING = 1e-5;

/** What becomes of an int8 model on this machine and on others. Returns 1 where its results are wrong here. */
export async function doctorModel(path: string, io: Io): Promise<1 | undefined> {
  const model = await openOnnx(path);
  const [{ name }] = model.inputs;
  const [count, ...size] = inputSize(model, path);
  const inspection = await inspectQuantized(model, { [name]: randomInputs(size, count, 0) });
  const features = cpuFeatures();
  const { layers, maxAbsDiff, scale } = inspection;
  const wrong = maxAbsDiff > ROUNDING * scale;
  const report = {
    ...{ model: path, features: features ?? null, saturatesHere: saturates(features), maxAbsDiff, scale, wrong },
    layers,
  };
  io.result(report, () => told(path, inspection, features, wrong));
  return wrong ? 1 : undefined;
}

function told(
  path: string,
  { layers, maxAbsDiff, scale }: QuantizedInspection,
  features: readonly string[] | undefined,
  wrong: boolean,
): string {
  const may = layers.filter(({ maySaturate }) => maySaturate);
  const changed = layers.filter((layer) => layer.changed);
  const signed = layers.filter(({ activations }) => activations === "int8").length;
  return [
    `${path}: ${layers.length} layers of integers${signed ? `, ${signed} with signed activations (exact everywhere, fast on ARM)` : ""}`,
    `instruction sets  ${features?.join(" ") || "unknown on this system"}`,
    wrong
      ? `WRONG HERE        outputs differ from those of exact kernels by ${maxAbsDiff.toPrecision(3)} of ${scale.toPrecision(3)}: sums of products saturate`
      : "right here        outputs are those of exact kernels",
    ...changed.map(
      ({ layer, operator, changed: share = 0 }) =>
        `  ${operator} ${layer}: ${(100 * share).toPrecision(2)} % of its integers differ`,
    ),
    may.length
      ? `elsewhere         ${may.length} layers have weights that can saturate on x86 without VNNI: ${may
          .slice(0, 5)
          .map(({ layer }) => layer)
          .join(", ")}${may.length > 5 ? ", …" : ""}; repmlp quantize --target portable makes a file for those machines`
      : "elsewhere         no layer can saturate: exact on every CPU",
  ].join("\n");
}

/** Sizes of the only input, with one picture where the batch is open. */
function inputSize(model: OnnxModel, path: string): number[] {
  const [input, ...others] = model.inputs;
  const { preprocessing } = readMetadata(model, path);
  const sizes = input?.shape?.map((d, axis) =>
    typeof d === "number" ? d : axis === 0 ? 1 : preprocessing?.inputSize[axis - 1],
  );
  must(
    others.length === 0 && input?.dtype === "float32" && sizes?.length && sizes.every((d) => d !== undefined),
    "doctor/input",
    () =>
      `${path}: must take one float32 input of known size, but takes ${model.inputs.map((v) => `${v.name} ${v.dtype} ${fmt(v.shape ?? ["?"])}`).join(", ")}. For others use inspectQuantized of the library.`,
    "model",
  );
  return sizes as number[];
}
