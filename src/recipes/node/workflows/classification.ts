import type { Batch } from "../../../data/index.ts";
import { classification } from "../../../tasks/index.ts";
import type { SettingsOf } from "../../task-settings.ts";
import { openTrainingData } from "../training-data.ts";
import type { TaskData, Workflow } from "./workflow.ts";

export const classificationWorkflow: Workflow<SettingsOf<"classification">, TaskData<Batch>> = {
  settings: { kind: "classification" },
  without: [],
  async open(folder, _, { recipe: { augment }, ...options }) {
    const { kind, ...data } = await openTrainingData(folder, { augment, ...options });
    return { ...data, classes: data.train.classes, isReady: kind !== "image-folder" };
  },
  task: (_, __, { labelSmoothing }) => classification({ labelSmoothing }),
  stated: (settings) => settings,
};
