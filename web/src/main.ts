import type { Job, JobEvent, JobResult } from "./job.ts";

const find = <E extends Element>(selector: string): E => document.querySelector<E>(selector)!;
const status = find<HTMLParagraphElement>("#status");
const table = find<HTMLTableElement>("#result");
const button = find<HTMLButtonElement>("#run");
const curve = find<SVGPathElement>("#curve path");

/** Draws the losses so far; the best fit of the box. */
function draw(losses: readonly number[], steps: number): void {
  const top = Math.max(...losses);
  const points = losses.map((loss, i) => {
    const x = 10 + (580 * i) / Math.max(1, steps - 1);
    return `${x.toFixed(1)},${(190 - (180 * loss) / top).toFixed(1)}`;
  });
  curve.setAttribute("d", `M${points.join("L")}`);
}

function show(result: JobResult): void {
  const rows: readonly (readonly [string, string])[] = [
    ["Device", `${result.device === "cpu" ? `WebAssembly, ${result.threads} thread(s)` : "WebGPU"}`],
    ["Last loss", result.losses[result.losses.length - 1].toFixed(4)],
    ["Time per step", `${result.stepMs.toFixed(1)} ms`],
    ["Parameters", `${result.parameters.train} → ${result.parameters.deploy}`],
    ["Largest difference", `${result.maxAbs.toExponential(2)} (${result.maxRel.toExponential(2)} relative)`],
    ["Same class", `${result.agree} of ${result.total}`],
  ];
  const cells = rows.map((row) => {
    const line = document.createElement("tr");
    for (const text of row) line.appendChild(document.createElement("td")).textContent = text;
    return line;
  });
  table.tBodies[0].replaceChildren(...cells);
  table.hidden = false;
}

/** Runs a job in a worker, so that the page stays live. */
function run(job: Job): Promise<JobResult> {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  const losses: number[] = [];
  status.textContent = "Loading the runtime …";
  status.className = "";
  return new Promise<JobResult>((resolve, reject) => {
    worker.onerror = ({ message }) => reject(new Error(message));
    worker.onmessage = ({ data }: MessageEvent<JobEvent>) => {
      if (data.type === "failed") reject(new Error(data.message));
      else if (data.type === "done") resolve(data.result);
      else {
        losses.push(data.loss);
        draw(losses, job.steps);
        status.textContent = `Step ${data.step} of ${job.steps}, loss ${data.loss.toFixed(4)}`;
      }
    };
    worker.postMessage(job);
  }).finally(() => worker.terminate());
}

/** Starts a job and shows what comes of it; also what tests call. */
async function start(job: Job): Promise<JobResult> {
  button.disabled = true;
  try {
    const result = await run(job);
    show(result);
    status.textContent = "Done: the merged network computes the same.";
    return result;
  } catch (error) {
    status.textContent = error instanceof Error ? error.message : String(error);
    status.className = "error";
    throw error;
  } finally {
    button.disabled = false;
  }
}

find<HTMLFormElement>("#controls").addEventListener("submit", (event) => {
  event.preventDefault();
  const device = find<HTMLSelectElement>("#device").value as Job["device"];
  const steps = find<HTMLInputElement>("#steps").valueAsNumber;
  start({ device, steps }).catch(() => {});
});

Object.assign(globalThis, { startJob: start });
