import { registerNode } from "../../runtime/node/platform.ts";
import { selfCheck } from "../../studies/self-check.ts";
import type { Run } from "../table.ts";

/** The check of the paper's code on one random block. */
export const run: Run<"selfcheck"> = async ({ options: { seed, tolerance }, io }) => {
  registerNode();
  const result = await selfCheck(seed);
  const passed = result.maxAbs <= tolerance;
  io.result({ ...result, tolerance, passed }, () =>
    [
      "RepMLP, 8 channels, 14 x 14, partitions 7 x 7, kernels 1 3 5, 4 groups, random batch norms",
      `difference between the outputs of the training form and the converted form:`,
      `  sum of squares   ${result.squaredDifference.toExponential(3)}`,
      `  largest          ${result.maxAbs.toExponential(3)}   (largest output ${result.outputMax.toFixed(3)})`,
      passed ? "passed" : `FAILED: the largest difference is above ${tolerance}`,
    ].join("\n"),
  );
  return passed ? undefined : 1;
};
