import type { Metadata, SharpOptions } from "sharp";
import { must, RepmlpError } from "../../errors.ts";
import { decodeBmp, isBmp } from "../preprocessing/bmp.ts";
import { diagnose } from "../preprocessing/diagnose.ts";
import { isFrame, isJpeg, isPng, jpegSegments } from "../preprocessing/headers.ts";
import { decodeNetpbm, isNetpbm } from "../preprocessing/netpbm.ts";
import { oriented, type Picture, withChannels } from "../preprocessing/picture.ts";
import { readNamed, reason } from "./files.ts";

const options: SharpOptions = {
  // Pillow refuses a cut file, and puts up with data a decoder merely warns about.
  failOn: "error",
  ignoreIcc: true,
  // Where Pillow calls a picture a decompression bomb: twice 1 GiB / 4 / 3 pixels.
  limitInputPixels: 178_956_970,
};

/** What sharp may decode here: it would also draw vector graphics and unpack video frames, which are no training data. */
const formats: ReadonlySet<string> = new Set(["jpeg", "png", "webp", "tiff"]);

/** Reads a picture file as RGB. See {@link decodePicture}. */
export async function readPicture(path: string): Promise<Picture> {
  const { bytes } = await readNamed(path);
  return decodePicture(bytes, path);
}

/**
 * Decodes a JPEG, PNG, WebP, TIFF, BMP, PGM or PPM file to the same RGB bytes `[height, width, 3]` as Pillow's
 * `convert("RGB")`: grey is repeated, palettes are looked up, CMYK is converted without a colour profile, alpha is
 * dropped without blending, and EXIF orientation, gamma and colour profiles are ignored; the orientation of a TIFF file is
 * obeyed, as it is there.
 *
 * @param name what to call the file in errors
 * @throws `picture/decode` when the file is damaged or of another kind
 */
export async function decodePicture(bytes: Uint8Array, name: string): Promise<Picture> {
  must(bytes.length > 0, "picture/decode", () => `${name}: the file is empty`, "file");
  if (isBmp(bytes)) return decodeBmp(bytes, name);
  if (isNetpbm(bytes)) return withChannels(decodeNetpbm(bytes, name), 3);
  try {
    if (isPlain(bytes)) return await rgbOf(bytes);
    const metadata = await (await loadSharp())(bytes, options).metadata();
    if (!formats.has(metadata.format)) throw new Error(`${metadata.format} is not one of ${[...formats].join(", ")}`);
    const picture = await withSharp(bytes, metadata);
    return metadata.format === "tiff" ? oriented(picture, metadata.orientation ?? 1) : picture;
  } catch (cause) {
    // This one is sharp's own and of this picture.
    const isLarge = /pixel limit/i.test(reason(cause));
    const why = isLarge ? `it has more than ${options.limitInputPixels} pixels` : diagnose(bytes);
    const message = `${name}: cannot be decoded as a picture (${why}). Replace or remove the file`;
    throw new RepmlpError("picture/decode", message, "file", { cause });
  }
}

/**
 * Whether the file says in its first bytes that it is one of the usual kinds, which need no closer look: a JPEG of grey
 * or three colours, or a PNG of up to 8 bits per channel.
 */
function isPlain(bytes: Uint8Array): boolean {
  if (isPng(bytes)) return bytes[24] <= 8;
  const frame = isJpeg(bytes) ? [...jpegSegments(bytes)].find(({ kind }) => isFrame(kind)) : undefined;
  const channels = frame && bytes[frame.at + 9];
  return channels === 1 || channels === 3;
}

let sharpModule: Promise<typeof import("sharp")> | undefined;

/** Loaded at the first picture: it takes longer to load than most of the package. */
async function loadSharp(): Promise<typeof import("sharp").default> {
  // A promise of our own: each `import` resolves the name anew, which for every picture is too much.
  sharpModule ??= import("sharp");
  return (await sharpModule).default;
}

/** What sharp makes of the file, without alpha. */
async function rgbOf(bytes: Uint8Array): Promise<Picture> {
  const sharp = await loadSharp();
  const { data, info } = await sharp(bytes, options).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  return withChannels({ width: info.width, height: info.height, data }, 3);
}

async function withSharp(bytes: Uint8Array, { format, space, depth, hasAlpha }: Metadata): Promise<Picture> {
  if (space === "cmyk") {
    const sharp = await loadSharp();
    const raw = await sharp(bytes, options)
      .pipelineColourspace("cmyk")
      .toColourspace("cmyk")
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { width: raw.info.width, height: raw.info.height, data: cmykToRgb(raw.data, raw.info.channels) };
  }
  // A transparent brightness in a PNG (colour type 0) is no alpha channel to Pillow.
  const isGrey = !hasAlpha || (format === "png" && bytes[25] === 0);
  if (space === "grey16" && depth === "ushort" && isGrey) return clippedGrey16(bytes);
  return rgbOf(bytes);
}

/** Pillow keeps 16-bit grey as numbers and clips them at 255 on the way to RGB; 16-bit colour keeps its high byte. */
async function clippedGrey16(bytes: Uint8Array): Promise<Picture> {
  const sharp = await loadSharp();
  const { data, info } = await sharp(bytes, options)
    .toColourspace("grey16")
    .raw({ depth: "ushort" })
    .toBuffer({ resolveWithObject: true });
  const values = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
  const { width, height, channels } = info;
  const grey = Uint8ClampedArray.from({ length: width * height }, (_, i) => values[i * channels]);
  return withChannels({ width, height, data: grey }, 3);
}

/** Pillow's formula: (255 − k) − c·(255 − k)/255 per colour, rounded and clipped. */
function cmykToRgb(cmyk: Uint8Array, stride: number): Uint8ClampedArray {
  const rgb = new Uint8ClampedArray((cmyk.length / stride) * 3);
  for (let i = 0, o = 0; i < cmyk.length; i += stride, o += 3) {
    const white = 255 - cmyk[i + 3];
    for (let c = 0; c < 3; c++) {
      const product = cmyk[i + c] * white + 128;
      rgb[o + c] = white - (((product >> 8) + product) >> 8);
    }
  }
  return rgb;
}
