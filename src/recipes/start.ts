import type { Normalization, Preprocessing } from "../data/index.ts";
import type { ModelOptions } from "../models/index.ts";
import type { LoadReport, Net } from "../nn/index.ts";
import type { Recipe } from "./recipe.ts";

/** What decides the network that is trained, beside the recipe and the data. */
export interface StartOptions {
  readonly recipe: Recipe;
  /** Default: the recipe's, else what the keys of `init` say. */
  readonly arch?: string;
  /** Weights to start from: a checkpoint of the training form, or an ONNX model, which is then trained itself. */
  readonly init?: string;
  /** Of a network with a backbone: a checkpoint of the backbone's own network of classes, whose weights it starts with. */
  readonly backbone?: string;
  /** Of a checkpoint: which of its state dicts, and what the network's keys begin with. */
  readonly key?: string | undefined;
  readonly prefix?: string | undefined;
  /** Asks for a new head for so many classes, which must be those of the data. */
  readonly numClasses?: number;
  /** Keys of a checkpoint that may be missing, unexpected or of another shape, as patterns. */
  readonly allowMismatch?: readonly string[];
  /**
   * `init` is a merged network, trained in this form of its family, such as `fc3BatchNorm`: each RepMLP gets a batch norm
   * after FC3; converting takes it in again. `insertedNorms` puts one behind every convolution. Or `acb`, `dbb`, `repvgg`, `mobileone`: branches beside its convolutions, also
   * of an ONNX model; see {@link replaceConvs}.
   */
  readonly trainingForm?: string | undefined;
  /**
   * Checkpoint of a search network such as RepOpt-VGG-B1-search: trains a plain network of its widths under RepOptimizer,
   * and begins it, where there is no `init`, as one with branches of these scales.
   */
  readonly scales?: string | undefined;
  /** Of an ONNX model: the output to train on, the layer that is the head, how batch norms behave. */
  readonly output?: string;
  readonly head?: string;
  readonly batchNorm?: "frozen" | "batch";
  /** Height and width of a picture, where neither architecture nor ONNX model says it, or another is wanted. */
  readonly imageSize?: number;
  /** Instead of what architecture, file and recipe say. */
  readonly normalization?: Normalization;
  readonly seed?: number;
}

/** The network of a run before the data is known. */
export interface Start {
  /** Architecture, or the file's name. */
  readonly name: string;
  /** Architecture in the registry, if it is one, and its options where they are not its own. */
  readonly arch?: string;
  readonly options?: ModelOptions;
  /** Name of the task that the network is for. */
  readonly task: string;
  readonly preprocessing: Preprocessing;
  /** For data sets of ready pictures; absent: theirs. */
  readonly normalization?: Normalization;
  /** Where the preprocessing is from, where that is a question. */
  readonly from?: string;
  /** The network for these classes; with `load`, its initial weights are read. */
  build(classes: readonly string[], load: boolean): Promise<StartedNet>;
}

export interface StartedNet {
  readonly net: Net;
  /** Keys of the head. */
  readonly head: readonly string[];
  /** What should be known of the network before it is trained. */
  readonly remarks?: readonly string[];
  /** What of `init` was not taken over, and what was taken of several; absent where there is none. */
  readonly loaded?: LoadReport & { readonly remarks: readonly string[] };
  /** Checks before the first step. */
  check?(inputShape: readonly number[], trained: (key: string) => boolean): void;
  /** Writes what the run makes beside checkpoints; its path. */
  save?(folder: string, preprocessing: Preprocessing, classes: readonly string[]): Promise<string>;
}
