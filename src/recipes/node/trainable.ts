import { RepmlpError } from "../../errors.ts";
import { MIXES, mixesPictures, mustHaveFiniteWeights } from "../../inference/index.ts";
import { openOnnx } from "../../inference/node/index.ts";
import { OnnxNet, type OnnxNetOptions } from "../../models/index.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import { type Shape, sizeOf } from "../../tensor/index.ts";
import { fitsPattern } from "../../text.ts";
import { type GradientReport, gradientReport } from "../../training/index.ts";
import { mustFitSome } from "../recipe.ts";

export interface TrainableOptions extends Pick<OnnxNetOptions, "output" | "head" | "numClasses" | "imageShape"> {
  /** Keys that are to be trained, as patterns. Default all. */
  readonly train?: readonly string[];
  /** Keys that are not. */
  readonly freeze?: readonly string[];
}

/** What of an ONNX model can be trained here. */
export interface Trainable extends GradientReport {
  readonly output: string;
  readonly classes: number;
  /** Keys of the head; none where it is not found. */
  readonly head: readonly string[];
  /** Why the head cannot be replaced by one for another number of classes; absent where it can. */
  readonly headProblem?: string;
  /** What should be known of the file before it is trained. */
  readonly remarks: readonly string[];
  readonly parameters: readonly { readonly key: string; readonly shape: Shape }[];
  /** Trainable values in all. */
  readonly values: number;
  /** Whether training can start. */
  readonly ok: boolean;
}

/**
 * Whether an ONNX file can be trained: reads it as a network and follows the gradient to the weights that are to be
 * trained.
 *
 * @throws what reading the file and {@link OnnxNet} throw: operators that are not supported, no input of pictures, …
 */
export async function onnxTrainable(path: string, options: TrainableOptions = {}): Promise<Trainable> {
  const { train = ["*"], freeze = [], ...net } = options;
  const file = await openOnnx(path);
  await mustHaveFiniteWeights(file, path);
  const model = new OnnxNet(file, net);
  const headProblem = net.numClasses === undefined ? headProblemOf(file, net, model.classes) : undefined;
  const parameters = [...model.parameters()].map(([key, { shape }]) => ({ key, shape }));
  const keys = parameters.map(({ key }) => key);
  mustFitSome(train, keys, "trainable: train");
  mustFitSome(freeze, keys, "trainable: freeze");
  const fits = (patterns: readonly string[], key: string): boolean => patterns.some((p) => fitsPattern(key, p));
  const size = net.imageShape ?? model.imageShape.map(Number);
  const trained = (key: string): boolean => fits(train, key) && !fits(freeze, key);
  const report = gradientReport(model, { inputShape: [2, ...size], trained });
  return {
    ...report,
    ...{ output: model.output, classes: model.classes, head: model.headKeys, parameters },
    ...(headProblem !== undefined && { headProblem }),
    remarks: await remarksOn(file, { ...net, imageShape: size }),
    values: parameters.reduce((n, { shape }) => n + sizeOf(shape), 0),
    ok: report.unreached.length === 0 && report.gaps.every(({ why }) => why === "zero"),
  };
}

/** What asking for a new head would be refused with. */
function headProblemOf(file: OnnxModel, options: OnnxNetOptions, classes: number): string | undefined {
  try {
    new OnnxNet(file, { ...options, numClasses: classes + 1 });
    return undefined;
  } catch (error) {
    if (error instanceof RepmlpError && error.code === "onnx-net/head") return error.message;
    throw error;
  }
}

/** What should be known of an ONNX model before it is trained, in sentences without their stop. */
export async function remarksOn(file: OnnxModel, { output, imageShape }: OnnxNetOptions): Promise<string[]> {
  const net = new OnnxNet(file, { output, imageShape });
  const mixes = await mixesPictures(net.eval(), imageShape ?? net.imageShape.map(Number));
  return [...net.remarks, ...(mixes ? [MIXES] : [])];
}
