import type { TargetBatch } from "../../../data/index.ts";
import { classNamesOf, type MaskPair, maskPairs, maskSet, readMask } from "../../../data/node/index.ts";
import { listed, must } from "../../../errors.ts";
import { segmentation } from "../../../tasks/index.ts";
import type { SettingsOf } from "../../task-settings.ts";
import type { TaskData, Workflow } from "./workflow.ts";

/** Masks that are looked at for classes that do not occur. */
const LOOKED_AT = 500;

/** Which classes occur in none of some masks, as a sentence. */
async function absentClasses(
  pairs: readonly MaskPair[],
  classes: readonly string[],
  labels: { readonly ignoreLabel?: number; readonly fromOne?: boolean },
): Promise<readonly string[]> {
  const step = Math.max(1, Math.ceil(pairs.length / LOOKED_AT));
  const looked = pairs.filter((_, i) => i % step === 0);
  const seen = new Set<number>();
  for (const { mask } of looked)
    for (const label of (await readMask(mask, { ...labels, numClasses: classes.length })).labels) seen.add(label);
  const absent = classes.flatMap((name, label) => (seen.has(label) ? [] : [`${label} (${name})`]));
  return absent.length
    ? [
        `${absent.length} of ${classes.length} classes occur in none of the ${looked.length} training masks looked at, such as ${looked[0].mask}: ${listed(absent)}; the network cannot learn them`,
      ]
    : [];
}

/**
 * Pictures with masks: `train` and `val` of a folder, see {@link maskPairs}. The names of the classes are the recipe's, or
 * the lines of `classes.txt`.
 */
export const segmentationWorkflow: Workflow<SettingsOf<"segmentation">, TaskData<TargetBatch>> = {
  settings: { kind: "segmentation" },
  without: ["augment", "mix", "labelSmoothing"],
  async open(folder, { classes: named, ignoreLabel, fromOne, augment = {} }, { preprocessing }) {
    const classes = named ?? (await classNamesOf(folder));
    must(
      classes,
      "segmentation/names",
      () =>
        `${folder}: nothing says what the labels of its masks stand for. Add a file classes.txt with a name per line in the order of the labels, or say "task": { "kind": "segmentation", "classes": [ … ] } in the recipe.`,
      "file",
    );
    const [trainPairs, valPairs] = [await maskPairs(folder, "train"), await maskPairs(folder, "val")];
    const { inputSize, mean, std } = preprocessing;
    const imageSize = [inputSize[1], inputSize[2]] as const;
    const options = { imageSize, normalization: { mean, std }, ignoreLabel, fromOne, numClasses: classes.length };
    return {
      train: maskSet(trainPairs, { ...options, augment }),
      validation: maskSet(valPairs, { ...options, centerCrop: true }),
      ...{ classes, preprocessing, isReady: false },
      notes: await absentClasses(trainPairs, classes, { ignoreLabel, fromOne }),
      close: async () => {},
    };
  },
  task: ({ ignoreLabel, auxWeight }, { classes }) => segmentation({ classes, ignoreLabel, auxWeight }),
  stated: ({ kind, ignoreLabel, fromOne }) => ({
    kind,
    ...(ignoreLabel !== undefined && { ignoreLabel }),
    ...(fromOne && { fromOne }),
  }),
};
