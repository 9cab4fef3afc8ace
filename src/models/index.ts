export type { Backbone, BackboneOptions } from "./backbone.ts";
export { CifarResNet, type CifarResNetOptions } from "./cifar-resnet.ts";
export {
  createDetected,
  type DetectedModel,
  type DetectOptions,
  detectModel,
  headKeys,
  type ModelForm,
  mustBeForm,
  type StateShapes,
} from "./detect.ts";
export { FaceRecognizer, FaceResNet, type FaceResNetOptions } from "./face-resnet.ts";
export {
  type CreateOptions,
  type Family,
  type Figure,
  type KeyNames,
  type ModelOptions,
  type Naming,
  type Part,
  type PreprocessingConfig,
  type PrunedShapes,
  type PublishedSize,
  prunedShapesOf,
  type TrainingForm,
  type Variant,
} from "./family.ts";
export { FastViT, type FastViTOptions, type FastViTTokenMixer } from "./fastvit.ts";
export * from "./layer-table.ts";
export { MobileFaceNet, type MobileFaceNetOptions } from "./mobilefacenet.ts";
export { MobileNet, type MobileNetOptions } from "./mobilenet.ts";
export { MobileOne, type MobileOneOptions } from "./mobileone.ts";
export { underNames } from "./naming.ts";
export * from "./onnx-net/index.ts";
export { PSPNet, type PSPNetOptions } from "./pspnet.ts";
export { QARepVGG } from "./qarepvgg.ts";
export { createModel, familyOf, listModels, type ModelInfo, modelInfo, partOf, taskOfModel } from "./registry.ts";
export { RepGhostNet, type RepGhostNetOptions } from "./repghost.ts";
export { RepLKNet, type RepLKNetOptions } from "./replknet.ts";
export { RepMLPCifar, type RepMLPCifarMixer, type RepMLPCifarOptions } from "./repmlp-cifar.ts";
export { RepMLPMixer, type RepMLPMixerOptions } from "./repmlp-mixer.ts";
export { RepMLPResNet, type RepMLPResNetBlock, type RepMLPResNetOptions } from "./repmlp-resnet.ts";
export { RepMLPNet, type RepMLPNetOptions } from "./repmlpnet.ts";
export { RepOptSearchVGG, RepOptVGG, type RepOptVGGOptions } from "./repopt-vgg.ts";
export { RepVGG, type RepVGGOptions } from "./repvgg.ts";
export { RepVGGplus, type RepVGGplusOptions } from "./repvggplus.ts";
export { RepViT, type RepViTLayer, type RepViTOptions } from "./repvit.ts";
export { ResNet, type ResNetOptions } from "./resnet.ts";
export { UNet, type UNetOptions } from "./unet.ts";
export { UniRepLKNet, type UniRepLKNetOptions } from "./unireplknet.ts";
export { VanillaNet, type VanillaNetOptions } from "./vanillanet.ts";
