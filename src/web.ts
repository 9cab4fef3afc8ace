/**
 * Everything of the package for browsers: the isomorphic part on `onnxruntime-web`.
 *
 * @packageDocumentation
 */
import { registerWeb } from "./runtime/platform-web.ts";

export { decodePictureWeb } from "./data/preprocessing/decode-web.ts";
export * from "./index.ts";

registerWeb();
