import { join } from "node:path";
import type { Batch } from "../../../data/index.ts";
import { imageFolder } from "../../../data/node/index.ts";
import { listed, must } from "../../../errors.ts";
import { faces } from "../../../tasks/index.ts";
import type { SettingsOf } from "../../task-settings.ts";
import type { TaskData, Workflow } from "./workflow.ts";

/**
 * Pictures of people: `train/<person>/*`, and in `val/<person>/*` other pictures of the same people. People that were
 * never seen are for `repmlp verify-faces`.
 */
export const facesWorkflow: Workflow<SettingsOf<"faces">, TaskData<Batch>> = {
  settings: { kind: "faces" },
  without: ["mix", "labelSmoothing"],
  async open(folder, _, { recipe: { augment }, preprocessing, workers, onUnreadable }) {
    const [trainFolder, valFolder] = [join(folder, "train"), join(folder, "val")];
    const train = await imageFolder(trainFolder, { preprocessing, augment, workers, onUnreadable });
    const { classes, files } = train;
    const counts = new Array<number>(classes.length).fill(0);
    for (const { label } of files) counts[label]++;
    const few = classes.filter((_, i) => counts[i] < 2);
    must(
      !few.length,
      "faces/pictures",
      () =>
        `${trainFolder}: ${few.length} of ${classes.length} people have fewer than two pictures, such as ${join(trainFolder, few[0])} with ${counts[classes.indexOf(few[0])]}: ${listed(few)}. Two pictures of a person are needed to learn what they have in common; add some, or take those folders out.`,
      "file",
    );
    const validation = await imageFolder(valFolder, { preprocessing, workers, onUnreadable, classes });
    return {
      ...{ train, validation, classes, preprocessing, isReady: false },
      notes: [...train.notes(trainFolder), ...validation.notes(valFolder)],
      close: async () => void (await Promise.all([train.close(), validation.close()])),
    };
  },
  task: ({ head: kind = "amsoftmax", scale, margin }) => faces({ head: { kind, scale, margin } }),
  stated: ({ kind }) => ({ kind }),
};
