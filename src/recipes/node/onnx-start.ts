import { basename, join } from "node:path";
import { branchKinds, replaceConvs } from "../../blocks/index.ts";
import { imagenetPreprocessing, type Normalization, type Preprocessing } from "../../data/index.ts";
import { fmt, listed, must } from "../../errors.ts";
import { mustHaveFiniteWeights, readMetadata, writeMetadata } from "../../inference/index.ts";
import { openOnnx, saveOnnx } from "../../inference/node/index.ts";
import { OnnxNet } from "../../models/index.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import { mustHaveGradients } from "../../training/index.ts";
import type { Start, StartOptions } from "../start.ts";
import { remarksOn } from "./trainable.ts";

/** Name of the file that a run from an ONNX model writes. */
const FILE = "model.onnx";

/**
 * An ONNX model as the start of a run.
 *
 * @throws `train/classes` when the head is for other classes than the data has and no new one is asked for;
 *   `train/options` for those of checkpoints, `train/preprocessing`, `training/gradient`, and what opening the file and {@link OnnxNet} throw
 */
export async function onnxStart(path: string, options: StartOptions): Promise<Start> {
  const kind = branchKinds.find((name) => name === options.trainingForm);
  must(
    (kind || options.trainingForm === undefined) &&
      !options.allowMismatch?.length &&
      options.arch === undefined &&
      options.backbone === undefined,
    "train/options",
    () =>
      "train: `arch`, `backbone`, `allowMismatch` and `fc3BatchNorm` are for checkpoints, an ONNX model is trained as it is. Leave them out.",
    "usage",
  );
  const model = await openOnnx(path);
  await mustHaveFiniteWeights(model, path);
  const { preprocessing, normalization, from } = preparation(model, path, options);
  return {
    name: basename(path),
    task: "classification",
    preprocessing,
    ...(normalization && { normalization }),
    from,
    async build(classes) {
      const { numClasses, output, head, batchNorm } = options;
      const plain = new OnnxNet(model, { numClasses, output, head, batchNorm, imageShape: preprocessing.inputSize });
      const net = kind ? replaceConvs(plain, kind) : plain;
      must(
        net.classes === classes.length,
        "train/classes",
        () =>
          `${path}: its output has ${net.classes} classes, the data ${classes.length}. Ask for a new head: \`numClasses\` ${classes.length}.`,
        "usage",
      );
      return {
        net,
        head: net.headKeys,
        remarks: await remarksOn(model, { output, imageShape: preprocessing.inputSize }),
        check: (inputShape, trained) => {
          mustHaveGradients(net, { inputShape, trained });
        },
        async save(folder, used, labels) {
          const file = join(folder, FILE);
          await saveOnnx(file, net.toOnnx(writeMetadata({ preprocessing: used, labels })));
          return file;
        },
      };
    },
  };
}

/** How pictures are prepared for a model: flags, then what the file says, then the recipe, then ImageNet's way. */
function preparation(
  model: OnnxModel,
  path: string,
  { recipe, imageSize, normalization }: StartOptions,
): Required<Pick<Start, "preprocessing" | "from">> & Pick<Start, "normalization"> {
  const { preprocessing: stated } = readMetadata({ metadata: only(model.metadata, "preprocessing") }, path);
  const inputSize = sizeOfInput(model, path, imageSize, stated);
  const [channels, height, width] = inputSize;
  const { resize, ...imagenet } = imagenetPreprocessing(height);
  const usual = height === width ? { ...imagenet, resize } : { ...imagenet, resize: [height, width] as const };
  const preprocessing: Preprocessing = { ...usual, ...(stated ?? recipe.preprocessing), ...normalization, inputSize };
  for (const name of ["mean", "std"] as const)
    must(
      preprocessing[name].length === channels,
      "train/preprocessing",
      () =>
        `${path}: takes ${channels} channels, but ${name} is ${fmt(preprocessing[name])}. Say it with \`mean\` and \`std\`, or in the recipe.`,
      "usage",
    );
  const { mean, std } = preprocessing;
  const own = [normalization, stated, recipe.preprocessing].some((p) => p?.mean || p?.std);
  const sources = [
    ...(normalization ? ["the command line"] : []),
    stated
      ? "the file"
      : Object.keys(recipe.preprocessing).length
        ? "the recipe, the rest as for ImageNet"
        : "nothing of it is stated: as for ImageNet",
  ];
  return {
    preprocessing,
    from: sources.join(", then "),
    ...(own && { normalization: { mean, std } satisfies Normalization }),
  };
}

const only = (metadata: OnnxModel["metadata"], key: string): Record<string, string> =>
  metadata?.[key] === undefined ? {} : { [key]: metadata[key] };

/** The size that the file states, that it was exported for, or that is asked for. */
function sizeOfInput(
  { inputs }: OnnxModel,
  path: string,
  imageSize: number | undefined,
  stated: Preprocessing | undefined,
): Preprocessing["inputSize"] {
  const shape = inputs.length === 1 ? inputs[0].shape : undefined;
  const [channels, height, width] = (shape?.slice(1) ?? []).map((d, i) => {
    if (typeof d === "number") return d;
    return i === 0 ? (stated?.inputSize[0] ?? 3) : (imageSize ?? stated?.inputSize[i]);
  });
  must(
    shape?.length === 4 && channels !== undefined && height !== undefined && width !== undefined,
    "train/preprocessing",
    () =>
      shape?.length === 4
        ? `${path}: leaves the size of a picture open. Say it with \`imageSize\`.`
        : `${path}: must take one input of pictures [N, C, H, W], but takes ${listed(inputs.map(({ name, shape: s }) => `${name} ${fmt((s ?? ["?"]).map((d) => d || "?"))}`))}.`,
    "usage",
  );
  must(
    imageSize === undefined || (height === imageSize && width === imageSize),
    "train/preprocessing",
    () => `${path}: is made for pictures of ${height} x ${width}, not of ${imageSize}. Leave \`imageSize\` out.`,
    "usage",
  );
  return [channels, height, width];
}
