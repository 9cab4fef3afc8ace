import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { imagenetNormalization, preprocess } from "../../data/index.ts";
import { readPicture } from "../../data/node/index.ts";
import { picturesBelow } from "../../data/node/pictures-below.ts";
import { fmt, must, RepmlpError } from "../../errors.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import { type DType, dtypes, type Shape, sizeOf, Tensor, tensorFromBytes } from "../../tensor/index.ts";
import type { Feeds } from "../onnx/proof.ts";

/** Pictures of a folder that are compared on. */
const PICTURES = 8;

/** Height and width where the file leaves them open. */
const SIZE = 224;

/**
 * Inputs to compare on: one `.npy` file for each input, in the order of the model, or a folder of pictures (as many as
 * eight, in the order of their names), resized and normalised as for ImageNet.
 *
 * @param onNote  is told of what was left out: hidden files, and pictures that cannot be read
 * @throws RepmlpError `convert-onnx/inputs` where they do not fit the model, or no picture can be read
 */
export async function readInputs(
  paths: readonly string[],
  { inputs }: Pick<OnnxModel, "inputs">,
  onNote: (text: string) => void = () => {},
): Promise<Feeds[]> {
  const [first] = paths;
  if (paths.length === 1 && statSync(first, { throwIfNoEntry: false })?.isDirectory())
    return picturesOf(first, inputs, onNote);
  must(
    paths.length === inputs.length,
    "convert-onnx/inputs",
    () =>
      `--inputs: the model takes ${inputs.length} inputs (${inputs.map((i) => i.name).join(", ")}), got ${paths.length} files.`,
    "usage",
  );
  return [Object.fromEntries(inputs.map(({ name, dtype }, i) => [name, readNpy(paths[i]).cast(dtype)]))];
}

async function picturesOf(
  folder: string,
  inputs: OnnxModel["inputs"],
  onNote: (text: string) => void,
): Promise<Feeds[]> {
  const [input] = inputs;
  const shape = input?.shape;
  const channels = shape?.[1] === 1 ? 1 : 3;
  must(
    inputs.length === 1 && shape?.length === 4 && (typeof shape[1] !== "number" || shape[1] === channels),
    "convert-onnx/inputs",
    () => "--inputs: pictures are for models of one input [N, 3, H, W] or [N, 1, H, W]. Give .npy files.",
    "usage",
  );
  const { pictures, notes } = await picturesBelow(folder);
  for (const note of notes) onNote(note);
  must(pictures.length > 0, "convert-onnx/inputs", () => `--inputs: there are no pictures in ${folder}.`, "usage");
  const [height, width] = shape.slice(2).map((d) => (typeof d === "number" ? d : SIZE));
  const settings = { inputSize: [channels, height, width] as const, ...normalizationOf(channels) };
  const feeds: Feeds[] = [];
  for (const file of pictures) {
    if (feeds.length === PICTURES) break;
    const picture = await readPicture(join(folder, file)).catch((error: unknown) => {
      if (!(error instanceof RepmlpError) || error.kind !== "file") throw error;
      onNote(error.message);
    });
    if (!picture) continue;
    const values = preprocess(picture, { ...settings, resize: [height, width] });
    const batch = typeof shape[0] === "number" ? shape[0] : 1;
    const all = new Float32Array(batch * values.length);
    for (let i = 0; i < batch; i++) all.set(values, i * values.length);
    feeds.push({ [input.name]: Tensor.float32([batch, channels, height, width], all).cast(input.dtype) });
  }
  must(
    feeds.length > 0,
    "convert-onnx/inputs",
    () => `--inputs: none of the ${pictures.length} pictures in ${folder} can be read. Look at ${pictures[0]}.`,
    "file",
  );
  return feeds;
}

const normalizationOf = (channels: number) => (channels === 3 ? imagenetNormalization : { mean: [0.5], std: [0.5] });

/** Element types by NumPy's names of them. */
const npyTypes: Readonly<Record<string, DType>> = {
  "<f4": "float32",
  "<f8": "float64",
  "<f2": "float16",
  "<i8": "int64",
  "<i4": "int32",
  "<i2": "int16",
  "<u2": "uint16",
  "|i1": "int8",
  "|u1": "uint8",
  "|b1": "bool",
};

/** An array that NumPy wrote. Throws `convert-onnx/npy` for what is none, or not in row order. */
export function readNpy(path: string): Tensor {
  const bytes = new Uint8Array(readFileSync(path));
  const refuse = (why: string): string => `${path}: ${why}. Save it with numpy.save.`;
  const magic = String.fromCharCode(...bytes.subarray(0, 6)) === "\x93NUMPY";
  must(magic && bytes.length > 12, "convert-onnx/npy", () => refuse("not a .npy file"), "file");
  const view = new DataView(bytes.buffer);
  const [length, start] = bytes[6] === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = new TextDecoder().decode(bytes.subarray(start, start + length));
  const found = /'descr':\s*'([^']+)',\s*'fortran_order':\s*False,\s*'shape':\s*\(([\d,\s]*)\)/.exec(header);
  const dtype = found ? npyTypes[found[1]] : undefined;
  must(found && dtype, "convert-onnx/npy", () => refuse("its type or order is not supported"), "file");
  const shape: Shape = found[2].split(",").flatMap((d) => (d.trim() === "" ? [] : [Number(d)]));
  const content = bytes.slice(start + length);
  must(
    content.length === sizeOf(shape) * dtypes[dtype].bytes,
    "convert-onnx/npy",
    () => refuse(`${fmt(shape)} of ${dtype} does not fit ${content.length} bytes`),
    "file",
  );
  return tensorFromBytes(dtype, shape, content);
}
