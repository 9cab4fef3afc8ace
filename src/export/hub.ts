import type { Preprocessing } from "../data/index.ts";
import { must } from "../errors.ts";
import type { OnnxModel } from "../onnx/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";
import { type ExportDType, ioNames } from "./graph.ts";
import { formatOf } from "./task-format.ts";

/** File name of the ONNX model of a type, relative to the folder; the suffixes are those of transformers.js. */
export const hubModelFile: Readonly<Record<ExportDType, string>> = {
  float32: "onnx/model.onnx",
  float16: "onnx/model_fp16.onnx",
};

/** What transformers.js calls a type. */
const hubType: Readonly<Record<ExportDType, string>> = { float32: "fp32", float16: "fp16" };

export interface HubConfigOptions {
  readonly arch: string;
  /** Name of the task that the network is for. Default `classification`. */
  readonly task?: string;
  /** Types that are in the folder; the first is what transformers.js loads when not told otherwise. */
  readonly dtypes: readonly ExportDType[];
  /** Number of outputs. */
  readonly classes: number;
  /** Class names; without them the classes are `LABEL_0`, `LABEL_1`, …. */
  readonly labels?: readonly string[];
  readonly preprocessing: Preprocessing;
  /** Types whose weights are in a file of their own. */
  readonly external?: readonly ExportDType[];
}

/**
 * `config.json`. The model type is that of a plain network of the task, such as `resnet` of image classifiers, whatever the
 * architecture: it selects how transformers.js calls the model, not what is computed.
 *
 * @throws RepmlpError `export/labels` when labels and outputs do not match
 */
export function hubConfig({
  arch,
  task,
  dtypes,
  classes,
  labels,
  preprocessing,
  external = [],
}: HubConfigOptions): object {
  const { modelType, architecture, hasClasses } = formatOf(task);
  const names = labels ?? Array.from({ length: classes }, (_, i) => `LABEL_${i}`);
  must(
    !hasClasses || names.length === classes,
    "export/labels",
    () => `export: ${names.length} labels for ${classes} outputs. Give one label per output.`,
    "usage",
  );
  const apart = Object.fromEntries(external.map((dtype) => [hubModelFile[dtype].slice("onnx/".length), true]));
  return {
    model_type: modelType,
    architectures: [architecture],
    ...(hasClasses && {
      id2label: Object.fromEntries(names.map((name, i) => [i, name])),
      // Names may repeat (ImageNet has two "crane"); the first class of a name keeps it here.
      label2id: Object.fromEntries(names.map((name, i) => [name, i] as const).reverse()),
    }),
    num_channels: preprocessing.inputSize[0],
    "transformers.js_config": {
      dtype: hubType[dtypes[0]],
      ...(external.length && { use_external_data_format: apart }),
    },
    repmlp: { arch, input: ioNames.input, output: ioNames.output, preprocessing },
  };
}

/** `preprocessor_config.json`: resize, centre crop, rescale and normalise, step by step as ours. */
export function hubPreprocessor(preprocessing: Preprocessing, task?: string): object {
  const { processor, squashes = false } = formatOf(task);
  const { inputSize, interpolation = "bilinear", mean, std } = preprocessing;
  const [channels, height, width] = inputSize;
  return {
    image_processor_type: processor,
    do_convert_rgb: channels === 3,
    do_resize: true,
    size: hubSize(preprocessing),
    resample: interpolation === "bicubic" ? 3 : 2,
    ...(squashes ? { do_center_crop: false } : { do_center_crop: true, crop_size: { height, width } }),
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: mean,
    image_std: std,
  };
}

/** Weights of red, green and blue in a brightness (ITU-R 601-2 luma), as Pillow and {@link withChannels} have them. */
const luma = [0.299, 0.587, 0.114];

/** The preprocessing of {@link takingColour}: the same in three channels. */
export const inColour = (preprocessing: Preprocessing): Preprocessing => ({
  ...preprocessing,
  inputSize: [3, preprocessing.inputSize[1], preprocessing.inputSize[2]],
  mean: luma.map(() => preprocessing.mean[0]),
  std: luma.map(() => preprocessing.std[0]),
});

/**
 * A model for pictures of one channel as one for colour, whose brightness it computes first: transformers.js can make
 * every picture RGB, but none grey.
 */
export function takingColour(model: OnnxModel): OnnxModel {
  const [{ shape = [], ...input }, ...rest] = model.inputs;
  const [weight, grey] = ["to_grey.weight", "grey_values"];
  const nodes = model.nodes.map((node) => ({
    ...node,
    inputs: node.inputs.map((name) => (name === input.name ? grey : name)),
  }));
  return {
    ...model,
    inputs: [{ ...input, shape: shape.map((d, axis) => (axis === 1 ? 3 : d)) }, ...rest],
    nodes: [{ opType: "Conv", name: "to_grey", inputs: [input.name, weight], outputs: [grey], attrs: {} }, ...nodes],
    initializers: new Map<string, TensorSource>([
      [weight, Tensor.float32([1, 3, 1, 1], Float32Array.from(luma))],
      ...model.initializers,
    ]),
  };
}

/** Size before the crop: one side for a picture that keeps its shape, both where it is squashed. */
function hubSize(preprocessing: Preprocessing): object {
  const { inputSize, cropPct = 0.875, cropMode = "center", resize } = preprocessing;
  const [height, width] =
    typeof resize === "object" ? resize : inputSize.slice(1).map((d) => resize ?? Math.floor(d / cropPct));
  const squashed = cropMode === "squash" || typeof resize === "object";
  must(
    squashed || height === width,
    "export/preprocessing",
    () =>
      `export: a ${height} x ${width} resize that keeps the shape of pictures cannot be written. Use a square input, or cropMode squash.`,
    "usage",
  );
  const sides = [height - inputSize[1], width - inputSize[2]];
  // transformers.js can pad both sides or cut both, and in a picture that keeps its shape the longer side is cut.
  const cutOnly = sides.every((d) => d >= 0);
  must(
    cutOnly || (squashed && sides.every((d) => d <= 0)),
    "export/preprocessing",
    () =>
      `export: pictures are resized to ${squashed ? `${height} x ${width}` : `a shorter side of ${height}`} and then padded to ${inputSize[1]} x ${inputSize[2]}, which transformers.js cannot do. Write one ONNX file instead (--layout file), or resize to the size of the input at least.`,
    "usage",
  );
  return squashed ? { height, width } : { shortest_edge: height };
}
