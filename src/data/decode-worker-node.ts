// The body of a worker thread that reads, decodes and prepares pictures.
import { parentPort, workerData } from "node:worker_threads";
import sharp from "sharp";
import { RepmlpError } from "../errors.ts";
import type { DecodeReply, DecodeRequest, DecodeSettings } from "./decode-task.ts";
import { preparedFile } from "./prepare-node.ts";

const settings = workerData as DecodeSettings;

// There is one worker per core already, and no picture is decoded twice in a row.
sharp.concurrency(1);
sharp.cache(false);

parentPort?.on("message", async ({ id, ...task }: DecodeRequest) => {
  try {
    const values = await preparedFile(task, settings);
    reply({ id, values }, [values.buffer]);
  } catch (cause) {
    const { code, kind } = cause instanceof RepmlpError ? cause : { code: "data/worker", kind: "runtime" as const };
    reply({ id, error: { code, kind, message: cause instanceof Error ? cause.message : String(cause) } });
  }
});

const reply = (message: DecodeReply, transfer: ArrayBuffer[] = []): void => parentPort?.postMessage(message, transfer);
