import { RepmlpError } from "../../errors.ts";
import { sampleRng } from "../augment/augmentation.ts";
import type { DecodeSettings, DecodeTask } from "../preprocessing/decode-task.ts";
import type { Picture } from "../preprocessing/picture.ts";
import { prepareInto } from "../preprocessing/prepare.ts";
import { readPicture } from "./decode.ts";

/** What became of some tasks. */
export interface Decoded {
  /** Values `[tasks, C, H, W]`; those of failed tasks mean nothing. */
  readonly values: Float32Array;
  /** What was wrong, by place among the tasks. */
  readonly errors: ReadonlyMap<number, RepmlpError>;
}

/** Writes the values `[C, H, W]` of the decoded picture of a task. */
export const prepareTask = (
  values: Float32Array,
  picture: Picture,
  { index, draw }: DecodeTask,
  { preprocessing, augment }: DecodeSettings,
): void => prepareInto(values, picture, preprocessing, augment, sampleRng(draw, index));

/** Does tasks in this thread; pictures have `size` values. */
export async function decodeHere(
  tasks: readonly DecodeTask[],
  settings: DecodeSettings,
  size: number,
): Promise<Decoded> {
  const values = new Float32Array(tasks.length * size);
  const errors = new Map<number, RepmlpError>();
  await Promise.all(
    tasks.map(async (task, i) => {
      try {
        prepareTask(values.subarray(i * size, (i + 1) * size), await readPicture(task.path), task, settings);
      } catch (error) {
        if (!(error instanceof RepmlpError)) throw error;
        errors.set(i, error);
      }
    }),
  );
  return { values, errors };
}
