/// <reference lib="webworker" />
import "../../src/web.ts";
import type { Job, JobEvent } from "./job.ts";
import { trainAndVerify } from "./train.ts";

const report = (event: JobEvent): void => postMessage(event);

addEventListener("message", async ({ data }: MessageEvent<Job>) => {
  try {
    const result = await trainAndVerify(data, (step, loss) => report({ type: "step", step, loss }));
    report({ type: "done", result });
  } catch (error) {
    report({ type: "failed", message: error instanceof Error ? error.message : String(error) });
  }
});
