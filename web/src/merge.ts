import type { MergeEvent, MergeJob, MergeResult } from "./merge-job.ts";

const find = <E extends Element>(selector: string): E => document.querySelector<E>(selector)!;
const drop = find<HTMLElement>("#drop");
const chooser = find<HTMLInputElement>("#model");
const verify = find<HTMLInputElement>("#verify");
const status = find<HTMLParagraphElement>("#merge-status");
const link = find<HTMLAnchorElement>("#merged");
const report = find<HTMLDivElement>("#report");

/** Merges a file in a worker, so that the page stays live. */
function run(job: MergeJob): Promise<MergeResult> {
  const worker = new Worker(new URL("./merge-worker.ts", import.meta.url), { type: "module" });
  return new Promise<MergeResult>((resolve, reject) => {
    worker.onerror = ({ message }) => reject(new Error(message));
    worker.onmessage = ({ data }: MessageEvent<MergeEvent>) =>
      data.type === "done" ? resolve(data.result) : reject(new Error(data.message));
    worker.postMessage(job, [job.bytes.buffer]);
  }).finally(() => worker.terminate());
}

function show({ name, file, sentence, report: html }: MergeResult): void {
  link.href = URL.createObjectURL(new Blob([file]));
  link.download = name;
  link.textContent = `Save ${name}`;
  link.hidden = false;
  // Names in it are escaped by who wrote it.
  report.innerHTML = html;
  status.textContent = sentence;
}

/** The last file that was given counts, whichever is ready first. */
let latest: File | undefined;

async function merge(file: File): Promise<void> {
  latest = file;
  if (link.href) URL.revokeObjectURL(link.href);
  link.hidden = true;
  report.replaceChildren();
  status.textContent = `Merging ${file.name} …`;
  status.className = "";
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const result = await run({ name: file.name, bytes, verify: verify.checked });
    if (latest === file) show(result);
  } catch (error) {
    if (latest !== file) return;
    status.textContent = error instanceof Error ? error.message : String(error);
    status.className = "error";
  }
}

const given = (files: FileList | null | undefined): void => {
  if (files?.length) void merge(files[0]);
};

chooser.addEventListener("change", () => {
  given(chooser.files);
  // The same file can be chosen again.
  chooser.value = "";
});
for (const type of ["dragenter", "dragover", "dragleave", "drop"])
  drop.addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", type === "dragenter" || type === "dragover");
  });
drop.addEventListener("drop", (event) => given(event.dataTransfer?.files));
