import { openClassifier } from "../../inference/node/classifier.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import type { Run } from "../table.ts";
import { viewOf } from "../tasks/index.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";

/** What a network says of pictures. */
export const run: Run<"predict"> = async (call) => {
  registerNode();
  const { args, options, io } = call;
  const file = await openClassifier(args.weights, weightsOptions(options));
  try {
    noteRemarks(io, args.weights, file.remarks);
    return await (await viewOf(file.task.kind, "predict", options)).predict(call, file);
  } finally {
    file.close();
  }
};
