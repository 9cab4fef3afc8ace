export * from "./classification.ts";
export * from "./evaluate.ts";
export * from "./faces.ts";
export * from "./segmentation.ts";
export { addToConfusion, classOfPixels, type SegmentationScores, segmentationScores } from "./segmentation-scores.ts";
export type * from "./task.ts";
export * from "./verification.ts";
