import type { Picture, Preprocessing } from "../../data/index.ts";
import { type MaskLabels, type MaskPair, readPair } from "../../data/node/index.ts";
import { fmt, must } from "../../errors.ts";
import { Comparison, Predictor } from "../../inference/index.ts";
import type { Classifier } from "../../inference/node/index.ts";
import type { Net } from "../../nn/index.ts";
import type { CompileOptions } from "../../runtime/index.ts";
import { Tensor } from "../../tensor/index.ts";
import { addToConfusion, classOfPixels, type SegmentationScores, segmentationScores } from "../segmentation-scores.ts";
import {
  type PixelClassifier,
  pixelProbabilities,
  type Size,
  type SlidingOptions,
  wholePicture,
} from "../sliding-window.ts";

export interface SegmenterOptions extends Pick<SlidingOptions, "stride" | "scales" | "mirror" | "batchSize"> {
  /** Looks at pictures as a whole instead of in tiles, where the network takes any size. Default false. */
  readonly whole?: boolean;
  readonly compile?: CompileOptions;
}

interface Compiled {
  readonly run: PixelClassifier;
  dispose(): Promise<void>;
}

/** Compiled sizes that are kept. */
const KEPT = 4;

/** A network that tells the class of each pixel, for pictures of any size; see {@link pixelProbabilities}. */
export class Segmenter {
  readonly #compiled = new Map<string, Promise<Compiled>>();

  private constructor(
    private readonly compile: (tile: Size) => Promise<Compiled>,
    private readonly preprocessing: Preprocessing,
    private readonly options: SegmenterOptions,
  ) {}

  /** @param preprocessing  its `inputSize` is the size of a tile */
  static ofNet(net: Net, preprocessing: Preprocessing, options: SegmenterOptions = {}): Segmenter {
    const { batchSize = 4, compile } = options;
    const made = async (tile: Size): Promise<Compiled> => {
      const predictor = await Predictor.create(net, { ...compile, batchSize, inputShape: [3, ...tile] });
      return { run: (images) => predictor.run(images), dispose: () => predictor.dispose() };
    };
    return new Segmenter(made, preprocessing, options);
  }

  /**
   * @throws `segmentation/whole`, when it is first used, for an ONNX file and pictures of another size than it takes
   */
  static ofFile(file: Classifier, options: SegmenterOptions = {}): Segmenter {
    const { batchSize = 4, compile } = options;
    const { net, preprocessing } = file;
    if (net) return Segmenter.ofNet(net, preprocessing, options);
    const own = preprocessing.inputSize.slice(1);
    const made = (tile: Size): Promise<Compiled> => {
      must(
        fmt(tile) === fmt(own),
        "segmentation/whole",
        () =>
          `segmentation: the ONNX file takes ${fmt(own)} pixels, not ${fmt(tile)}. Leave \`whole\` out, or give the checkpoint.`,
        "usage",
      );
      return file.compile({ ...compile, batchSize });
    };
    return new Segmenter(made, preprocessing, options);
  }

  /** Probabilities `[classes, H, W]` of a picture's pixels. */
  probabilities(picture: Picture): Promise<Tensor> {
    const { inputSize, mean, std } = this.preprocessing;
    const { whole = false, stride, scales, mirror, batchSize } = this.options;
    const own: Size = [inputSize[1], inputSize[2]];
    return pixelProbabilities((tile) => this.runOf(tile), picture, {
      ...{ stride, scales, mirror, batchSize, normalization: { mean, std } },
      tile: whole ? wholePicture : () => own,
    });
  }

  private async runOf(tile: Size): Promise<PixelClassifier> {
    const key = fmt(tile);
    const found = this.#compiled.get(key) ?? this.compile(tile);
    this.#compiled.delete(key);
    this.#compiled.set(key, found);
    if (this.#compiled.size > KEPT) {
      const [oldest] = this.#compiled.keys();
      const compiled = this.#compiled.get(oldest);
      this.#compiled.delete(oldest);
      await (await compiled)?.dispose();
    }
    return (await found).run;
  }

  async dispose(): Promise<void> {
    const all = [...this.#compiled.values()];
    this.#compiled.clear();
    await Promise.all(all.map(async (compiled) => (await compiled).dispose()));
  }
}

/** How forms of a network did on the same pictures. */
export interface PixelTest {
  readonly pictures: number;
  /** Of each form. */
  readonly scores: readonly SegmentationScores[];
  readonly confusions: readonly (readonly number[])[];
  /** All pixels, and those to which all forms give the same class. */
  readonly pixels: number;
  readonly agree: number;
  /** Largest difference of a probability from that of the first form. */
  readonly maxAbsDiff: number;
  /** Seconds, reading pictures included. */
  readonly seconds: number;
}

/**
 * Looks at pictures with masks with one or several forms of a network, at the size that the pictures have.
 *
 * @param classes  number of classes
 * @throws what reading pictures and masks throws; `segmentation/classes` for a network of other classes
 */
export async function testPixels(
  forms: readonly Segmenter[],
  pairs: readonly MaskPair[],
  classes: number,
  { onPicture, ...labels }: MaskLabels & { readonly onPicture?: (done: number, total: number) => void } = {},
): Promise<PixelTest> {
  const start = performance.now();
  const confusions = forms.map(() => new Array<number>(classes ** 2).fill(0));
  const difference = new Comparison();
  let [pixels, agree] = [0, 0];
  for (const [i, pair] of pairs.entries()) {
    const { picture, labels: wanted } = await readPair(pair, { ...labels, numClasses: classes });
    const found: Uint8Array[] = [];
    let first: Float32Array | undefined;
    for (const [f, form] of forms.entries()) {
      const probabilities = await form.probabilities(picture);
      must(
        probabilities.shape[0] === classes,
        "segmentation/classes",
        () =>
          `segmentation: the network has ${probabilities.shape[0]} outputs, the data ${classes} classes. Use the data that it was trained for.`,
        "usage",
      );
      const { data, shape } = probabilities;
      const own = classOfPixels(new Tensor("float32", [1, ...shape], data as Float32Array<ArrayBuffer>));
      addToConfusion(confusions[f], classes, own, wanted, labels.ignoreLabel);
      if (first) difference.add(first, data as Float32Array);
      first ??= data as Float32Array;
      found.push(own as Uint8Array);
    }
    const [reference, ...others] = found;
    pixels += reference.length;
    for (let p = 0; p < reference.length; p++) if (others.every((other) => other[p] === reference[p])) agree++;
    onPicture?.(i + 1, pairs.length);
  }
  return {
    ...{ pictures: pairs.length, confusions, pixels, agree, maxAbsDiff: difference.maxAbs },
    scores: confusions.map((confusion) => segmentationScores(confusion, classes)),
    seconds: (performance.now() - start) / 1000,
  };
}
