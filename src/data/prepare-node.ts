import { sampleRng } from "./augment/augmentation.ts";
import { readPicture } from "./decode-node.ts";
import type { DecodeSettings, DecodeTask } from "./decode-task.ts";
import type { Picture } from "./picture.ts";
import { prepare } from "./prepare.ts";

/** Reads, decodes and prepares one picture file: `[C, H, W]`, in `out` where it is given. */
export const preparedFile = async (
  task: DecodeTask,
  settings: DecodeSettings,
  out?: Float32Array<ArrayBuffer>,
): Promise<Float32Array<ArrayBuffer>> => prepared(await readPicture(task.path), task, settings, out);

/** As {@link preparedFile}, of the decoded file. */
export const prepared = (
  picture: Picture,
  { index, draw }: DecodeTask,
  { preprocessing, augment }: DecodeSettings,
  out?: Float32Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> => prepare(picture, preprocessing, augment, sampleRng(draw, index), out);
