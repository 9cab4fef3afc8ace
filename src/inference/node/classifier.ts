import { openSource } from "../../checkpoint/node/index.ts";
import type { Preprocessing } from "../../data/index.ts";
import { fmt, must } from "../../errors.ts";
import { lower, targets } from "../../graph/index.ts";
import { type ModelForm, type ModelOptions, rawOutput, taskOfModel } from "../../models/index.ts";
import { countParameters, type Net, traceModel } from "../../nn/index.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import type { CompileOptions } from "../../runtime/index.ts";
import { type Shape, sameShape, sizeOf, Tensor } from "../../tensor/index.ts";
import { mustBeFinite } from "../finite-outputs.ts";
import { Predictor, remarksOnBatches } from "../index.ts";
import { type ExportMetadata, readMetadata, type TaskMetadata } from "../metadata.ts";
import { openOnnx } from "./onnx-file.ts";
import { type OpenModelOptions, openModelFile, withModelFile } from "./open-model.ts";
import { compilePlaced } from "./placed-weights.ts";

/** A file with a network of pictures, and what is known of it. */
export interface Classifier {
  /** Architecture, if known. */
  readonly arch: string | undefined;
  readonly form: ModelForm | undefined;
  /** The task that it is for, with what the file says of it. */
  readonly task: TaskMetadata;
  /** Type of the weights. */
  readonly dtype: string;
  readonly preprocessing: Preprocessing;
  /** Class names, if the file has them. */
  readonly labels: readonly string[] | undefined;
  /** Number of outputs. */
  readonly classes: number;
  /** What of the file was taken, or left out, in words. */
  readonly remarks: readonly string[];
  /** Names and shapes of the tensors: the state dict of a checkpoint, the initializers of an ONNX file. */
  readonly tensors: readonly (readonly [name: string, shape: Shape])[];
  /** Trainable values. */
  readonly parameters: number;
  /** The network, for checkpoints, and what it was made with beside the number of classes. */
  readonly net: Net | undefined;
  readonly modelOptions: ModelOptions | undefined;
  /** Makes it ready to run, for batches up to a size. */
  compile(options?: CompileOptions & { readonly batchSize?: number }): Promise<CompiledClassifier>;
  /**
   * Lets go of the file. Compiled classifiers do not need it: it may be deleted or replaced. It must not be written into,
   * since weights that the runtime does not pack stay mapped from there.
   */
  close(): void;
}

export interface CompiledClassifier {
  /** `[N, C, H, W]` → logits `[N, classes]`, for any N. */
  run(images: Tensor): Promise<Tensor>;
  dispose(): Promise<void>;
}

export interface ClassifierOptions extends OpenModelOptions {
  /** Instead of the preprocessing that belongs to the weights. */
  readonly preprocessing?: Preprocessing;
}

/**
 * Opens a checkpoint (`.pth`, `.safetensors`) or an exported `.onnx` file for classifying pictures.
 *
 * @throws RepmlpError `predict/preprocessing` for an ONNX file that does not say how pictures are prepared,
 *   `predict/input` for one that does not take pictures of that size
 */
export async function openClassifier(path: string, options: ClassifierOptions = {}): Promise<Classifier> {
  return /\.onnx$/i.test(path) ? openOnnxClassifier(path, options) : openCheckpointClassifier(path, options);
}

async function openCheckpointClassifier(path: string, options: ClassifierOptions): Promise<Classifier> {
  const {
    net,
    arch,
    form,
    task,
    options: modelOptions,
    close,
    classes: labels,
    remarks,
    ...opened
  } = await openModelFile(path, options);
  const preprocessing = options.preprocessing ?? opened.preprocessing;
  return {
    ...{ arch, form, task, preprocessing, net, modelOptions, labels, remarks, close },
    dtype: "float32",
    classes: traceModel(net, [1, ...preprocessing.inputSize]).output.shape[1],
    tensors: [...net.state()].map(([key, { shape }]) => [key, shape]),
    parameters: countParameters(net),
    compile: async (compileOptions) =>
      finite(await compileNet(net, preprocessing.inputSize, compileOptions), path, net),
  };
}

/** The same, with an error in place of outputs that are no numbers. */
const finite = ({ run, dispose }: CompiledClassifier, path: string, source: Net | OnnxModel): CompiledClassifier => ({
  dispose,
  async run(images) {
    const output = await run(images);
    await mustBeFinite(output, path, images, source);
    return output;
  },
});

/** A network whose values are still in its file. */
async function compileNet(
  net: Net,
  inputShape: Shape,
  { batchSize = 1, ...options }: CompileOptions & { readonly batchSize?: number } = {},
): Promise<CompiledClassifier> {
  if ((options.device ?? "cpu") !== "cpu") {
    const predictor = await Predictor.create(net, { ...options, batchSize, inputShape });
    return { run: (images) => predictor.run(images), dispose: () => predictor.dispose() };
  }
  net.initialize();
  const { output, names } = traceModel(net, [batchSize, ...inputShape]);
  const { model } = lower({ outputs: { output } }, { target: targets.inference, names });
  const program = await compilePlaced(model, options);
  const run = async (input: Tensor): Promise<Tensor> => (await program.run({ input })).output;
  return {
    async run(images) {
      must(
        images.dtype === "float32" && sameShape(images.shape.slice(1), inputShape),
        "predict/input",
        () =>
          `predict: expected float32 pictures [N, ${inputShape.join(", ")}], got ${images.dtype} ${fmt(images.shape)}`,
      );
      return inBatches(images, batchSize, run);
    },
    dispose: () => program.dispose(),
  };
}

/** The model with logits as its output: what goes into a Softmax or Sigmoid at its end. */
function withLogits(model: OnnxModel): OnnxModel {
  const [output] = model.outputs;
  return { ...model, outputs: [{ ...output, name: rawOutput(model, output.name) }] };
}

async function openOnnxClassifier(path: string, options: ClassifierOptions): Promise<Classifier> {
  const model = withLogits(await openOnnx(path));
  const metadata = readMetadata(model, path);
  const preprocessing = options.preprocessing ?? metadata.preprocessing;
  must(
    preprocessing,
    "predict/preprocessing",
    () => `${path}: does not say how pictures are prepared for it. Export it with repmlp, or use a checkpoint.`,
    "file",
  );
  const [batch] = mustTakePictures(model, preprocessing, path);
  const [{ name: input, dtype }] = model.inputs;
  const [{ name: output }] = model.outputs;
  const weights = [...model.initializers].filter(([, { dtype }]) => dtype !== "int64");
  return {
    ...describe(metadata),
    preprocessing,
    net: undefined,
    modelOptions: undefined,
    remarks: await remarksOnBatches(model, preprocessing.inputSize, path),
    classes: Number(model.outputs[0].shape?.[1]),
    tensors: weights.map(([name, { shape }]) => [name, shape]),
    parameters: weights.reduce((n, [, { shape }]) => n + sizeOf(shape), 0),
    close: () => {},
    async compile({ batchSize = 1, ...compileOptions } = {}) {
      const program = await compilePlaced(model, compileOptions);
      const size = typeof batch === "number" ? batch : batchSize;
      const run = async (chunk: Tensor): Promise<Tensor> =>
        (await program.run({ [input]: chunk.cast(dtype) }))[output].cast("float32");
      return finite({ run: (images) => inBatches(images, size, run), dispose: () => program.dispose() }, path, model);
    },
  };
}

const describe = ({ arch, form, task, dtype = "float32", labels }: ExportMetadata) => ({
  ...{ arch, form, dtype, labels, task: task ?? { kind: taskOfModel(arch) } },
});

function mustTakePictures(model: OnnxModel, { inputSize }: Preprocessing, path: string): readonly (number | string)[] {
  const shape = model.inputs.length === 1 ? model.inputs[0].shape : undefined;
  must(
    shape?.length === 4 && inputSize.every((d, i) => typeof shape[i + 1] === "string" || shape[i + 1] === d),
    "predict/input",
    () =>
      `${path}: must take one input of ${fmt(["batch", ...inputSize])}, but takes ${model.inputs.map((v) => `${v.name} ${fmt(v.shape ?? ["?"])}`).join(", ")}`,
    "file",
  );
  return shape;
}

/** The task that the network of a file is for; no value is read of a checkpoint. */
export async function taskOfFile(path: string, options: OpenModelOptions = {}): Promise<TaskMetadata> {
  if (/\.onnx$/i.test(path)) return describe(readMetadata(await openOnnx(path), path)).task;
  return withModelFile(path, options, async ({ task }) => task);
}

/** Runs batches of a fixed size; the last one is filled up with zeros, which samples do not notice. */
async function inBatches(images: Tensor, size: number, run: (chunk: Tensor) => Promise<Tensor>): Promise<Tensor> {
  const [total, ...inner] = images.shape;
  const each = sizeOf(inner);
  const values = images.data as Float32Array<ArrayBuffer>;
  let out: Float32Array<ArrayBuffer> | undefined;
  let shape: Shape = [];
  for (let start = 0; start < total; start += size) {
    const count = Math.min(size, total - start);
    const chunk = new Float32Array(size * each);
    chunk.set(values.subarray(start * each, (start + count) * each));
    const logits = await run(new Tensor("float32", [size, ...inner], chunk));
    shape = logits.shape.slice(1);
    const width = sizeOf(shape);
    out ??= new Float32Array(total * width);
    out.set((logits.data as Float32Array).subarray(0, count * width), start * width);
  }
  return new Tensor("float32", [total, ...shape], out ?? new Float32Array(0));
}

/** SHA-256 of a file, or of what comes through a pipe, hexadecimal. */
export async function fileSha256(path: string): Promise<string> {
  const { createHash } = await import("node:crypto");
  const hash = createHash("sha256");
  const source = await openSource(path);
  try {
    for (let at = 0; at < source.size; at += HASHED)
      hash.update(await source.read(at, Math.min(HASHED, source.size - at)));
  } finally {
    source.close?.();
  }
  return hash.digest("hex");
}

/** Bytes that are read at a time. */
const HASHED = 2 ** 20;
