import { fromOrt, platform, toOrt, translateError } from "../../runtime/ort.ts";
import type { OnnxRunner } from "./proof.ts";

export interface OpenRunnerOptions {
  /** Without the runtime's optimizations every node is computed as the file has it. Default: with all of them. */
  readonly optimize?: boolean;
  /** Where the runtime looks for weights outside of the model. Default: where the model is. */
  readonly weightsFolder?: string;
}

/** A session on the CPU over an ONNX file: its bytes, or its path where there are files. */
export async function openRunner(
  model: Uint8Array | string,
  { optimize = true, weightsFolder }: OpenRunnerOptions = {},
): Promise<OnnxRunner> {
  const { ort, threads } = await platform("cpu");
  const folder = weightsFolder && { model_external_initializers_file_folder_path: weightsFolder };
  const options = {
    intraOpNumThreads: threads,
    graphOptimizationLevel: optimize ? ("all" as const) : ("disabled" as const),
    // What goes wrong is thrown, too.
    logSeverityLevel: 4 as const,
    ...(folder && { extra: { session: folder } }),
  };
  const create = (): ReturnType<typeof ort.InferenceSession.create> =>
    typeof model === "string"
      ? ort.InferenceSession.create(model, options)
      : ort.InferenceSession.create(model, options);
  try {
    const session = await create();
    return {
      run: async (feeds) => {
        const given = Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, toOrt(ort, t)]));
        try {
          const made = await session.run(given);
          return Object.fromEntries(Object.entries(made).map(([name, t]) => [name, fromOrt(t)]));
        } catch (cause) {
          throw translateError("run the model", cause);
        }
      },
      dispose: () => session.release(),
    };
  } catch (cause) {
    throw translateError("open the model", cause);
  }
}
