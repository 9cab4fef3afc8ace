/// <reference lib="webworker" />
import { convertOnnxBytes, onnxReportBody } from "../../src/web.ts";
import type { MergeEvent, MergeJob, MergeResult } from "./merge-job.ts";

async function merge({ name, bytes, verify }: MergeJob): Promise<MergeResult> {
  const made = name.replace(/(\.onnx)?$/i, ".merged.onnx");
  const conversion = await convertOnnxBytes(bytes, { name, verify });
  const { counts, merges, proof, file } = conversion;
  const compared = proof
    ? `largest difference ${proof.maxRel.toExponential(1)} of an output's largest value`
    : "outputs were not compared";
  const count = `${merges.length} merge${merges.length === 1 ? "" : "s"}`;
  const sentence = `${counts[0].nodes} nodes became ${counts[1].nodes} (${count}); ${compared}.`;
  return { name: made, file, sentence, report: onnxReportBody([name, made], conversion) };
}

addEventListener("message", async ({ data }: MessageEvent<MergeJob>) => {
  const answer = await merge(data).then(
    (result): MergeEvent => ({ type: "done", result }),
    (error): MergeEvent => ({ type: "failed", message: error instanceof Error ? error.message : String(error) }),
  );
  postMessage(answer);
});
