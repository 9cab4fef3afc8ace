import { must, RepmlpError } from "../../errors.ts";
import type { Picture } from "./picture.ts";
import { stripMetadata } from "./strip-metadata.ts";

/**
 * Decodes a picture file with the browser, to RGB bytes `[height, width, 3]`: EXIF orientation, colour profile and gamma
 * are ignored and alpha is dropped without blending, as the Node decoder does. Works in workers too.
 *
 * @param name what to call the file in errors
 * @throws `picture/decode` when the browser cannot decode the file
 */
export async function decodePictureWeb(file: Blob, name = "picture"): Promise<Picture> {
  const bytes = stripMetadata(new Uint8Array(await file.arrayBuffer()));
  const bitmap = await bitmapOf(new Blob([bytes], { type: file.type }), name);
  try {
    const { width, height } = bitmap;
    const rgba = drawn(bitmap);
    // A canvas multiplies by alpha and back, which loses bits where the picture is not opaque; textures do not.
    const opaque = rgba.every((v, i) => i % 4 !== 3 || v === 255);
    return { width, height, data: withoutAlpha(opaque ? rgba : fromTexture(bitmap, name)) };
  } finally {
    bitmap.close();
  }
}

async function bitmapOf(file: Blob, name: string): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (cause) {
    throw new RepmlpError("picture/decode", `${name}: the browser cannot decode this picture`, "file", { cause });
  }
}

function drawn(bitmap: ImageBitmap): Uint8ClampedArray {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  must(context, "picture/canvas", () => "picture: the browser offers no canvas", "runtime");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}

function fromTexture(bitmap: ImageBitmap, name: string): Uint8Array {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  must(
    gl,
    "picture/canvas",
    () => "picture: the browser offers no WebGL 2, which transparent pictures need",
    "runtime",
  );
  const largest: number = gl.getParameter(gl.MAX_TEXTURE_SIZE);
  must(
    width <= largest && height <= largest,
    "picture/size",
    () => `${name}: ${width} x ${height} pixels, but transparent pictures may have sides of ${largest} in this browser`,
    "file",
  );
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const rgba = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
  // Browsers allow a handful of contexts; this one is not waited for.
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return rgba;
}

function withoutAlpha(rgba: Uint8Array | Uint8ClampedArray): Uint8Array {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0, o = 0; i < rgba.length; i += 4, o += 3) {
    rgb[o] = rgba[i];
    rgb[o + 1] = rgba[i + 1];
    rgb[o + 2] = rgba[i + 2];
  }
  return rgb;
}
