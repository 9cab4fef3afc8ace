export { cifar10 } from "./cifar.ts";
export { decodePicture, readPicture } from "./decode.ts";
export { fashionMnist, fashionMnistSmall, type IdxFolderOptions, mnist, type Split } from "./idx.ts";
export { type ImageFile, ImageFolder, type ImageFolderOptions, imageFolder } from "./image-folder.ts";
export { type MaskAugmentation, type MaskFolderOptions, maskFolder } from "./mask-folder.ts";
export { packageFile } from "./package-file.ts";
