import type { Normalization } from "../data/index.ts";
import type { Net } from "../nn/index.ts";
import { FaceRecognizer, FaceResNet, type FaceResNetOptions } from "./face-resnet.ts";
import { defineFamily, type PreprocessingConfig, picturesOf } from "./family.ts";
import { four, kernelSizes, oneOf, oneOrTwo, whole } from "./options.ts";

/** Pictures of faces: (x / 255 − 0.5) / 0.5. */
const faceNormalization: Normalization = { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] };

/** Preprocessing of aligned faces: both sides to the input's size, nothing is cut. */
export function facePictures(imageSize: number | readonly [height: number, width: number]): PreprocessingConfig {
  const size = typeof imageSize === "number" ? ([imageSize, imageSize] as const) : imageSize;
  return { ...picturesOf(size, faceNormalization), resize: size };
}

/** Identities of MS1M-V2, which the papers train on. */
const IDENTITIES = 85_742;

/** An embedder with weights of `numClasses` identities beside it. */
export const recognizer = (embedder: Net, features: number, numClasses: number = IDENTITIES): FaceRecognizer =>
  new FaceRecognizer(embedder, { identities: numClasses, features });

interface Options extends FaceResNetOptions {
  /** Identities that it is trained to tell apart. Default those of MS1M-V2, 85,742. */
  readonly numClasses?: number;
}

export const faces = defineFamily<Options>({
  name: "FaceResNet",
  task: "faces",
  variants: {
    FaceResNet: { description: "embeddings of faces, a ResNet of wide blocks; the baseline of RepMLP-FaceRes" },
    "RepMLP-FaceRes": {
      description: "embeddings of faces, with RepMLP Bottleneck blocks",
      options: { blockType: "bottleneck" },
    },
  },
  options: {
    blockType: oneOf("base", "bottleneck"),
    imageSize: oneOrTwo,
    embedding: whole,
    numBlocks: four(whole),
    channels: four(whole),
    stemChannels: whole,
    partition: oneOrTwo,
    reparamConvKernels: kernelSizes,
    groups: whole,
    reduction: whole,
    numClasses: whole,
  },
  create: ({ numClasses, ...options }) => recognizer(new FaceResNet(options), options.embedding ?? 512, numClasses),
  preprocessing: ({ imageSize = 96 }) => facePictures(imageSize),
  dependsOnSize: (key) => key.includes(".fc1_fc2."),
  namings: [{ name: "repmlp", signature: [["embedder.stage0.0.conv.weight", "embedder.embedding.fc.weight"]] }],
});
