import { sampleRng } from "./augment/augmentation.ts";
import { readPicture } from "./decode-node.ts";
import type { DecodeSettings, DecodeTask } from "./decode-task.ts";
import { prepare } from "./prepare.ts";

/** Reads, decodes and prepares one picture file: `[C, H, W]`. */
export async function preparedFile(
  { path, index, draw }: DecodeTask,
  { preprocessing, augment }: DecodeSettings,
): Promise<Float32Array<ArrayBuffer>> {
  return prepare(await readPicture(path), preprocessing, augment, sampleRng(draw, index));
}
