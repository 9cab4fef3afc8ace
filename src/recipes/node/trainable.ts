import { openOnnx } from "../../inference/node/index.ts";
import { OnnxNet, type OnnxNetOptions } from "../../models/index.ts";
import { type Shape, sizeOf } from "../../tensor/index.ts";
import { type GradientReport, gradientReport } from "../../training/index.ts";
import { fitsPattern, mustFitSome } from "../recipe.ts";

export interface TrainableOptions extends Pick<OnnxNetOptions, "output" | "head" | "imageShape"> {
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
  const model = new OnnxNet(await openOnnx(path), net);
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
    values: parameters.reduce((n, { shape }) => n + sizeOf(shape), 0),
    ok: report.unreached.length === 0 && report.gaps.every(({ why }) => why === "zero"),
  };
}
