export { classColors, overlay } from "./class-colors.ts";
export * from "./classification.ts";
export * from "./evaluate.ts";
export * from "./faces.ts";
export { type FacePair, parsePairs } from "./pair-list.ts";
export * from "./segmentation.ts";
export { addToConfusion, classOfPixels, type SegmentationScores, segmentationScores } from "./segmentation-scores.ts";
export {
  type PixelClassifier,
  pixelProbabilities,
  type Size,
  type SlidingOptions,
  wholePicture,
} from "./sliding-window.ts";
export type * from "./task.ts";
export * from "./verification.ts";
