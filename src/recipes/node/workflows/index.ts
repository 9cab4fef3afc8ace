import type { TaskName } from "../../task-settings.ts";
import { classificationWorkflow } from "./classification.ts";
import { facesWorkflow } from "./faces.ts";
import { segmentationWorkflow } from "./segmentation.ts";
import type { Workflow } from "./workflow.ts";

/** All tasks that can be trained by recipes. What each does lies in its own file. */
export const workflows: Readonly<Record<TaskName, Workflow>> = {
  classification: classificationWorkflow,
  segmentation: segmentationWorkflow,
  faces: facesWorkflow,
};

export type { TaskData, Workflow, WorkflowDataOptions } from "./workflow.ts";
