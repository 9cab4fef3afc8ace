import type { Normalization, PictureBatch, PictureSet, Preprocessing } from "../../../data/index.ts";
import type { ImageFolderOptions } from "../../../data/node/index.ts";
import type { Task } from "../../../tasks/index.ts";
import type { Recipe } from "../../recipe.ts";
import type { TaskSettings } from "../../task-settings.ts";
import type { DataKind } from "../training-data.ts";

export interface WorkflowDataOptions {
  readonly recipe: Recipe;
  /** How pictures become the network's input. */
  readonly preprocessing: Preprocessing;
  /** For data sets of ready pictures, instead of the usual one of each. */
  readonly normalization?: Normalization;
  /** Threads that decode picture files. */
  readonly workers?: number;
  readonly onUnreadable?: ImageFolderOptions["onUnreadable"];
  /** Default: told by what the folder holds. */
  readonly kind?: DataKind;
}

/** Training and validation pictures of a task. */
export interface TaskData<B extends PictureBatch = PictureBatch> {
  readonly train: PictureSet<B>;
  readonly validation: PictureSet<B>;
  /** Names of what the network's outputs stand for. */
  readonly classes: readonly string[];
  /** What happens to a picture before it is trained on. */
  readonly preprocessing: Preprocessing;
  /** Whether the pictures come as they are, so that nothing of the preprocessing is a question. */
  readonly isReady: boolean;
  /** What one should know of the data, as sentences. */
  readonly notes: readonly string[];
  close(): Promise<void>;
}

/** What training by recipes needs of a task: its pictures, and the task itself, once they are known. */
export interface Workflow<S extends TaskSettings = TaskSettings, D extends TaskData = TaskData> {
  /** Settings of who gives none. */
  readonly settings: S;
  /** Entries of a recipe that say nothing to this task. */
  readonly without: readonly (keyof Recipe)[];
  /** Reads the data set of a folder. */
  open(folder: string, settings: S, options: WorkflowDataOptions): Promise<D>;
  task(settings: S, data: D, recipe: Recipe): Task;
  /** What of the settings a checkpoint states, for whoever tests it. */
  stated(settings: S): S;
}
