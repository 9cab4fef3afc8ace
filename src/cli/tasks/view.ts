import type { Classifier } from "../../inference/node/index.ts";
import type { Call } from "../table.ts";

/** How commands show what a network of a task does. */
export interface TaskView {
  /** Does the work of `test`; 1 when a check failed. */
  test(call: Call<"test">): Promise<1 | undefined>;
  /** Does the work of `predict` with an opened network. */
  predict(call: Call<"predict">, file: Classifier): Promise<1 | undefined>;
}
