import type { Preprocessing } from "../data/index.ts";
import { must } from "../errors.ts";
import { type ExportDType, ioNames } from "./graph.ts";

/** File name of the ONNX model of a type, relative to the folder; the suffixes are those of transformers.js. */
export const hubModelFile: Readonly<Record<ExportDType, string>> = {
  float32: "onnx/model.onnx",
  float16: "onnx/model_fp16.onnx",
};

/** What transformers.js calls a type. */
const hubType: Readonly<Record<ExportDType, string>> = { float32: "fp32", float16: "fp16" };

export interface HubConfigOptions {
  readonly arch: string;
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
 * `config.json`. The model type is that of a plain image classifier, `resnet`, whatever the architecture: it selects
 * how transformers.js calls the model, not what is computed.
 *
 * @throws RepmlpError `export/labels` when labels and outputs do not match
 */
export function hubConfig({ arch, dtypes, classes, labels, preprocessing, external = [] }: HubConfigOptions): object {
  const names = labels ?? Array.from({ length: classes }, (_, i) => `LABEL_${i}`);
  must(
    names.length === classes,
    "export/labels",
    () => `export: ${names.length} labels for ${classes} outputs. Give one label per output.`,
    "usage",
  );
  const apart = Object.fromEntries(external.map((dtype) => [hubModelFile[dtype].slice("onnx/".length), true]));
  return {
    model_type: "resnet",
    architectures: ["ResNetForImageClassification"],
    id2label: Object.fromEntries(names.map((name, i) => [i, name])),
    // Names may repeat (ImageNet has two "crane"); the first class of a name keeps it here.
    label2id: Object.fromEntries(names.map((name, i) => [name, i] as const).reverse()),
    num_channels: preprocessing.inputSize[0],
    "transformers.js_config": {
      dtype: hubType[dtypes[0]],
      ...(external.length && { use_external_data_format: apart }),
    },
    repmlp: { arch, input: ioNames.input, output: ioNames.output, preprocessing },
  };
}

/** `preprocessor_config.json`: resize, centre crop, rescale and normalise, step by step as ours. */
export function hubPreprocessor(preprocessing: Preprocessing): object {
  const { inputSize, interpolation = "bilinear", mean, std } = preprocessing;
  const [channels, height, width] = inputSize;
  return {
    image_processor_type: "BitImageProcessor",
    do_convert_rgb: channels === 3,
    do_resize: true,
    size: hubSize(preprocessing),
    resample: interpolation === "bicubic" ? 3 : 2,
    do_center_crop: true,
    crop_size: { height, width },
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: mean,
    image_std: std,
  };
}

/** Size before the crop: one side for a picture that keeps its shape, both where it is squashed. */
function hubSize({ inputSize, cropPct = 0.875, cropMode = "center", resize }: Preprocessing): object {
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
  return squashed ? { height, width } : { shortest_edge: height };
}
