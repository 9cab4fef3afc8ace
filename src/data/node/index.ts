export { cifar10 } from "./cifar.ts";
export { decodePicture, readPicture } from "./decode.ts";
export { fashionMnist, fashionMnistSmall, type IdxFolderOptions, mnist, type Split } from "./idx.ts";
export { type ImageFile, ImageFolder, type ImageFolderOptions, imageFolder } from "./image-folder.ts";
export { type MaskFolderOptions, type MaskLabels, maskFolder, maskSet, readMask, readPair } from "./mask-folder.ts";
export { classNamesOf, type MaskPair, maskPairs } from "./mask-pairs.ts";
export { packageFile } from "./package-file.ts";
export { encodePalettePng } from "./png-writer.ts";
