// The body of a worker thread that reads, decodes and prepares pictures.
import { parentPort, workerData } from "node:worker_threads";
import sharp from "sharp";
import { RepmlpError } from "../../errors.ts";
import type { DecodeFailure, DecodeJob, DecodeReply, DecodeSettings } from "../preprocessing/decode-task.ts";
import { decodePicture } from "./decode.ts";
import { readNamedSync } from "./files.ts";
import { prepareTask } from "./prepare.ts";

const settings = workerData as DecodeSettings;

// There is one worker per core already, and no picture is decoded twice in a row.
sharp.concurrency(1);
sharp.cache(false);

/** One picture is decoded, by a thread of sharp, while the one before is resized here. */
const atOnce = 2;

/** The last job that each of the takers was given; they go through the jobs one after the other. */
const takers: Promise<void>[] = Array.from({ length: atOnce }, () => Promise.resolve());

parentPort?.on("message", (job: DecodeJob) => {
  const failures: DecodeFailure[] = [];
  takers.forEach((before, i) => {
    takers[i] = before.then(() => take(job, failures));
  });
  void Promise.all(takers).then(() => parentPort?.postMessage({ id: job.id, failures } satisfies DecodeReply));
});

/** Does tasks of a job until none is left. */
async function take({ tasks, taken, values }: DecodeJob, failures: DecodeFailure[]): Promise<void> {
  const size = values.length / tasks.length;
  for (let i = Atomics.add(taken, 0, 1); i < tasks.length; i = Atomics.add(taken, 0, 1))
    try {
      const { name, bytes } = readNamedSync(tasks[i].path);
      const picture = await decodePicture(bytes, name);
      prepareTask(values.subarray(i * size, (i + 1) * size), picture, tasks[i], settings);
    } catch (cause) {
      const { code, kind } = cause instanceof RepmlpError ? cause : { code: "data/worker", kind: "runtime" as const };
      const message = cause instanceof Error ? cause.message : String(cause);
      failures.push({ task: i, error: { code, kind, message } });
    }
}
