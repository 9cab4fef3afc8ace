import { withFc3BatchNorm } from "../blocks/index.ts";
import type { TrainingForm } from "./family.ts";

/** The training form that families with RepMLP blocks share; see {@link withFc3BatchNorm}. */
export const fc3BatchNorm: TrainingForm = {
  description: "merged form with batch norms after FC3",
  flag: "--fc3-batch-norm",
  make: withFc3BatchNorm,
};
