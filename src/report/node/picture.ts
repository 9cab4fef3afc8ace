import type { Tensor } from "../../tensor/index.ts";

/** Grey or RGB bytes, row-major, channels innermost. */
export interface Raster {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
  readonly data: Uint8Array;
}

/** A raster as a PNG data URI. */
export async function pngUri({ data, width, height, channels }: Raster): Promise<string> {
  const { default: sharp } = await import("sharp");
  const png = await sharp(data, { raw: { width, height, channels } }).png().toBuffer();
  return `data:image/png;base64,${png.toString("base64")}`;
}

/** Blue for negative, red for positive, white for zero; `v` from −1 to 1. */
function diverging(v: number): readonly [number, number, number] {
  const s = Math.min(1, Math.abs(v)) ** 0.6;
  const towards = v < 0 ? [33, 102, 172] : [178, 24, 43];
  return towards.map((c) => Math.round(255 + (c - 255) * s)) as [number, number, number];
}

/**
 * The weights of FC3 between one output and one input channel: h × w panels, one per output pixel, each showing the
 * h × w input pixels that it looks at (the paper's figure of merged kernels).
 *
 * @param weight   FC3's weight `[O·h·w, C/g·h·w, 1, 1]`
 * @param channel  output channel; its input channel is the first of its group
 * @param scale    value shown in full colour
 */
export function fcKernelPicture(
  weight: Tensor,
  [h, w]: readonly [number, number],
  {
    channel = 0,
    scale,
    inputChannel = 0,
  }: { readonly channel?: number; readonly inputChannel?: number; readonly scale: number },
): Raster {
  const columns = weight.size / weight.shape[0];
  const values = weight.toFloat64();
  const [width, height] = [w * (w + 1) + 1, h * (h + 1) + 1];
  const data = new Uint8Array(width * height * 3).fill(150);
  for (let i = 0; i < h; i++)
    for (let j = 0; j < w; j++) {
      const row = ((channel * h + i) * w + j) * columns + inputChannel * h * w;
      for (let u = 0; u < h; u++)
        for (let v = 0; v < w; v++) {
          const at = ((i * (h + 1) + 1 + u) * width + j * (w + 1) + 1 + v) * 3;
          data.set(diverging(values[row + u * w + v] / scale), at);
        }
    }
  return { width, height, channels: 3, data };
}
