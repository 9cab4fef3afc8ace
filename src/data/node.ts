export { cifar10 } from "./cifar-node.ts";
export { checkTransforms, type ReadTensors, type TransformCheck } from "./conformance-node.ts";
export { decodePicture, readPicture } from "./decode-node.ts";
export { fashionMnist, fashionMnistSmall, type IdxFolderOptions, mnist, type Split } from "./idx-node.ts";
export { type ImageFile, ImageFolder, type ImageFolderOptions, imageFolder } from "./image-folder-node.ts";
