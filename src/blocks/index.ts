export * from "./acb.ts";
export * from "./compactor.ts";
export * from "./conv-bn.ts";
export type { ConvPlace } from "./conv-place.ts";
export * from "./conv-unit.ts";
export * from "./dbb.ts";
export { ECB, type ECBOptions, PReLU } from "./ecb.ts";
export * from "./fastvit.ts";
export { foldFilters, foldNormed, type NormedFilters } from "./fold-compactor.ts";
export * from "./inserted-norm.ts";
export { LearnableRepLayer, type LearnableRepLayerOptions } from "./learnable-rep.ts";
export { LinearBn } from "./linear-bn.ts";
export {
  IdentityWeights,
  type MarginKind,
  type MarginOptions,
  marginKinds,
  marginLogits,
  marginOf,
  normalizeRows,
} from "./margin-head.ts";
export { MBRConv, type MBRConvOptions } from "./mbr-conv.ts";
export * from "./mobileone.ts";
export {
  AuxiliaryHead,
  PyramidPooling,
  resizeAligned,
  SegmentationHead,
  type SegmentationHeadOptions,
} from "./pspnet.ts";
export * from "./qarepvgg.ts";
export * from "./repghost.ts";
export * from "./replace-convs.ts";
export * from "./replknet.ts";
export * from "./repmlp.ts";
export * from "./repmlpnet.ts";
export * from "./repopt.ts";
export {
  RepVGGBlock,
  type RepVGGBlockOptions,
  RepVGGConv,
  RepVGGplusBlock,
  type RepVGGplusBlockOptions,
} from "./repvgg.ts";
export * from "./repvit.ts";
export * from "./residual.ts";
export { RVSRRepConv, type RVSRRepConvOptions } from "./rvsr.ts";
export * from "./squeeze-excite.ts";
export * from "./unireplknet.ts";
export * from "./vanillanet.ts";
export { withCompactors } from "./with-compactors.ts";
export * from "./yolo.ts";
