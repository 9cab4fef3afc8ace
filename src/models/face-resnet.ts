import { BaseBlock, BottleneckBlock, IdentityWeights, LinearBn } from "../blocks/index.ts";
import { fmt, must } from "../errors.ts";
import { globalAvgPool, type Pair, pair, type Value } from "../graph/index.ts";
import { Module, type Net } from "../nn/index.ts";
import { Stage, Stem } from "./repmlp-resnet.ts";

export interface FaceResNetOptions {
  /** RepMLP Bottlenecks in the places of stride 1 of stages 1 to 3, or ResNet's blocks everywhere. Default `base`. */
  readonly blockType?: "base" | "bottleneck";
  /** Height and width of the input in pixels. Default 96. */
  readonly imageSize?: number | Pair;
  /** Features of the embedding. Default 512; small sets want fewer. */
  readonly embedding?: number;
  /** Blocks per stage. Default 3, 2, 2, 2. */
  readonly numBlocks?: readonly number[];
  /** Output channels of the stages, also of their 3×3 convolutions. Default 128, 256, 512, 1024. */
  readonly channels?: readonly number[];
  /** Channels of the stem. Default 64. */
  readonly stemChannels?: number;
  /** Partition in pixels. Default 6. */
  readonly partition?: number | Pair;
  /** Odd kernel sizes of the Local Perceptron. Default 1, 3, 5. */
  readonly reparamConvKernels?: readonly number[];
  /** Groups of FC3. Default 4. */
  readonly groups?: number;
  /** Reduction r of the Bottleneck blocks. Default 2. */
  readonly reduction?: number;
}

/**
 * FaceResNet and RepMLP-FaceRes (RepMLP, section 4.4): a ResNet-50 of fewer and wider blocks, whose 3×3 convolutions have
 * as many channels as the stage; with `bottleneck` the stride-1 blocks of the first three stages are RepMLP Bottlenecks.
 * Global average pooling, a linear layer and a batch norm make the embedding: the paper does not say which head it has.
 * Keys `stage0.0.*`, `stage{1..4}.{i}.*`, `embedding.*`.
 *
 * `[N, 3, H, W]` → `[N, embedding]`, not of unit length.
 */
export class FaceResNet extends Module {
  readonly stage0: Stem;
  readonly stage1: Stage;
  readonly stage2: Stage;
  readonly stage3: Stage;
  readonly stage4: Stage;
  readonly embedding: LinearBn;
  /** Height and width that the input must have; undefined where any size will do. */
  readonly imageSize: Pair | undefined;

  constructor(options: FaceResNetOptions = {}) {
    super();
    const { blockType = "base", numBlocks = [3, 2, 2, 2], channels = [128, 256, 512, 1024] } = options;
    const { imageSize = 96, stemChannels = 64, embedding = 512 } = options;
    must(
      numBlocks.length === 4 && channels.length === 4,
      "face-resnet/stages",
      () => `face-resnet: numBlocks and channels need 4 entries, got ${fmt(numBlocks)} and ${fmt(channels)}`,
      "usage",
    );
    this.imageSize = blockType === "base" ? undefined : pair(imageSize);
    this.stage0 = new Stem(stemChannels);
    const stages = channels.map((outChannels, i) => {
      const blocks = Array.from({ length: numBlocks[i] }, (_, position) => {
        const inChannels = position ? outChannels : i ? channels[i - 1] : stemChannels;
        const stride = i > 0 && position === 0 ? 2 : 1;
        const own = { inChannels, midChannels: outChannels, outChannels };
        return this.imageSize && stride === 1 && i < 3
          ? new BottleneckBlock({ ...own, ...perceptron(options, this.imageSize, i) })
          : new BaseBlock({ ...own, stride });
      });
      return new Stage(blocks);
    });
    [this.stage1, this.stage2, this.stage3, this.stage4] = stages as [Stage, Stage, Stage, Stage];
    this.embedding = new LinearBn(channels[3], embedding);
  }

  forward(x: Value): Value {
    const [height, width] = this.imageSize ?? x.shape.slice(2);
    must(
      x.shape.length === 4 && x.shape[1] === 3 && x.shape[2] === height && x.shape[3] === width,
      "face-resnet/input",
      () =>
        `face-resnet: the network was built for pictures [N, 3, ${height ?? "H"}, ${width ?? "W"}], got ${fmt(x.shape)}. Resize them, or build it with another \`imageSize\`.`,
    );
    const stages = [this.stage0, this.stage1, this.stage2, this.stage3, this.stage4];
    return this.embedding.forward(globalAvgPool(stages.reduce((y, stage) => stage.forward(y), x)));
  }
}

/** What the RepMLP of a stage (0-based) is built from. */
function perceptron(options: FaceResNetOptions, imageSize: Pair, stage: number) {
  const { partition = 6, reparamConvKernels = [1, 3, 5], groups = 4, reduction = 2 } = options;
  const [height, width] = imageSize.map((d) => Math.ceil(d / 2 ** (stage + 2)));
  return { height, width, partition, reparamConvKernels, groups, reduction };
}

/**
 * A network of embeddings with the weights of the identities that it is trained to tell apart: what the task `faces`
 * trains. Conversion merges the embedder and leaves the weights out. Keys `embedder.*`, `identities.weight`.
 * `[N, 3, H, W]` → `[N, D]`.
 */
export class FaceRecognizer extends Module {
  readonly identities: IdentityWeights | undefined;

  /** @param features  D, the length of the embedder's embeddings */
  constructor(
    readonly embedder: Net,
    { identities, features }: { readonly identities: number; readonly features: number },
  ) {
    super();
    this.identities = new IdentityWeights(identities, features);
  }

  forward(x: Value): Value {
    return this.embedder.forward(x);
  }
}
