import { availableParallelism } from "node:os";
import type { Preprocessing } from "../../data/index.ts";
import { must, type RepmlpError } from "../../errors.ts";
import { evaluateData } from "../../inference/index.ts";
import { openClassFolders } from "../../inference/node/index.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import { type CompileOptions, compileModel } from "../../runtime/index.ts";
import { Tensor } from "../../tensor/index.ts";

/** How many pictures two models give their class. */
export interface Accuracies {
  /** Folder of the pictures. */
  readonly folder: string;
  readonly total: number;
  /** Correct by the float model, and by the one in integers. */
  readonly float: number;
  readonly integers: number;
}

export interface AccuracyOptions {
  readonly preprocessing: Preprocessing;
  /** Class names by output, where the model states them; without, the folders' rank counts. */
  readonly labels?: readonly string[] | undefined;
  /** Pictures per run. */
  readonly batchSize: number;
  readonly compile?: CompileOptions | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onUnreadable?: ((error: RepmlpError) => void) | undefined;
  readonly onProgress?: ((progress: { readonly label: string; readonly done: number }) => void) | undefined;
}

/** Whether pictures, by their paths below a folder, lie in folders that are named as classes. */
export const liesInClasses = (pictures: readonly string[], labels: readonly string[] | undefined): boolean =>
  labels !== undefined && pictures.every((path) => path.includes("/") && labels.includes(path.split("/")[0]));

/**
 * Counts what both models say of the pictures in `<folder>/<class>/`.
 *
 * @throws RepmlpError `quantize/eval` where none can be read, and what opening the folder throws where its names do not fit
 */
export async function accuraciesOf(
  { float, integers }: { readonly float: OnnxModel; readonly integers: OnnxModel },
  folder: string,
  { preprocessing, labels, compile, signal, onUnreadable, onProgress, batchSize }: AccuracyOptions,
): Promise<Accuracies> {
  const data = await openClassFolders(folder, {
    ...{ preprocessing, workers: Math.max(1, availableParallelism() - 1), ...(labels && { labels }) },
    onUnreadable: (_, error) => onUnreadable?.(error),
  });
  const counted = async (model: OnnxModel, label: string) => {
    await using program = await compileModel(model, compile);
    const [{ name, shape }] = model.inputs;
    const fixed = typeof shape?.[0] === "number" ? shape[0] : undefined;
    const predict = async (images: Tensor): Promise<Tensor> => {
      const [made] = Object.values(await program.run({ [name]: fixed ? withRows(images, fixed) : images }));
      return withRows(made, images.shape[0]);
    };
    const { counts } = await evaluateData(predict, data.dataset, {
      ...{ batchSize: fixed ?? batchSize, ...(signal && { signal }) },
      onBatch: ({ sum }) => onProgress?.({ label, done: sum.total }),
    });
    return counts;
  };
  try {
    const [a, b] = [await counted(float, "testing float"), await counted(integers, "testing integers")];
    must(a.total > 0, "quantize/eval", () => `${folder}: none of its pictures can be read.`, "file");
    return { folder, total: a.total, float: a.correct, integers: b.correct };
  } finally {
    await data.close();
  }
}

/** So many rows of a tensor; where it has fewer, zeros follow. */
function withRows(x: Tensor, rows: number): Tensor {
  const [count, ...rest] = x.shape;
  if (count === rows) return x;
  const made = Tensor.zeros(x.dtype, [rows, ...rest]);
  const part = x.data.slice(0, made.data.length) as Float32Array;
  (made.data as Float32Array).set(part);
  return made;
}
