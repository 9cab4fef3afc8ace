// The body of a worker thread that reads, decodes and prepares pictures.
import { parentPort, workerData } from "node:worker_threads";
import sharp from "sharp";
import { RepmlpError } from "../errors.ts";
import { decodePicture } from "./decode-node.ts";
import type { DecodeReply, DecodeRequest, DecodeSettings } from "./decode-task.ts";
import { readNamedSync } from "./files-node.ts";
import { prepared } from "./prepare-node.ts";

const settings = workerData as DecodeSettings;

// There is one worker per core already, and no picture is decoded twice in a row.
sharp.concurrency(1);
sharp.cache(false);

/** One picture is decoded (by threads of sharp) while the one before is resized here. */
const atOnce = 2;
const requests: DecodeRequest[] = [];
let free = atOnce;

parentPort?.on("message", (request: DecodeRequest) => {
  requests.push(request);
  if (free > 0) void work();
});

async function work(): Promise<void> {
  free--;
  for (let request = requests.shift(); request; request = requests.shift()) await answer(request);
  free++;
}

async function answer({ id, spare, ...task }: DecodeRequest): Promise<void> {
  try {
    const { name, bytes } = readNamedSync(task.path);
    const values = prepared(await decodePicture(bytes, name), task, settings, spare);
    reply({ id, values }, [values.buffer]);
  } catch (cause) {
    const { code, kind } = cause instanceof RepmlpError ? cause : { code: "data/worker", kind: "runtime" as const };
    reply({ id, error: { code, kind, message: cause instanceof Error ? cause.message : String(cause) } });
  }
}

const reply = (message: DecodeReply, transfer: ArrayBuffer[] = []): void => parentPort?.postMessage(message, transfer);
