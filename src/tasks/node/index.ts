export { type Embedder, type EmbedOptions, embedFiles, pixelEmbeddings } from "./embed-files.ts";
export { baselineEmbedders, type EmbedderOptions, embeddersOf, type NamedEmbedder } from "./embedders.ts";
export { encodeNpy } from "./npy.ts";
export { type PixelTest, Segmenter, type SegmenterOptions, testPixels } from "./segmenter.ts";
export {
  type FaceGallery,
  type FaceIdentification,
  type FaceVerification,
  type FileEmbedder,
  faceGallery,
  identifyFaces,
  type VerifyPairsOptions,
  verifyPairs,
} from "./verify-faces.ts";
