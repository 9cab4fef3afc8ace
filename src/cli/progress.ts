/** How far some work is. */
export interface Progress {
  readonly done: number;
  readonly total: number;
  /** What is being done, a few words. */
  readonly label?: string;
  /** Steps per second; measured when not given. */
  readonly rate?: number;
  /** Estimated when not given. */
  readonly secondsLeft?: number;
}

/** A display of {@link Progress}. */
export interface ProgressView {
  update(progress: Progress): void;
  /** Takes the display away; later updates do nothing. */
  stop(): void;
}

/** Milliseconds between two lines where there is no terminal. */
const LINE_EVERY = 5000;

const silent: ProgressView = { update() {}, stop() {} };

/** A bar on a terminal, a plain line every few seconds elsewhere. */
export async function openProgress(
  stream: NodeJS.WriteStream,
  options: { readonly silent?: boolean; readonly lineEvery?: number } = {},
): Promise<ProgressView> {
  if (options.silent) return silent;
  return stream.isTTY ? bar(stream) : lines(stream, options.lineEvery ?? LINE_EVERY);
}

/** Fills in rate and remaining time from the time since the first update. */
function measured(): (progress: Progress) => Required<Progress> {
  let start: { readonly time: number; readonly done: number } | undefined;
  return ({ label = "", done, total, ...given }) => {
    const now = performance.now();
    start ??= { time: now, done };
    const seconds = (now - start.time) / 1000;
    const rate = given.rate ?? (seconds > 0 ? (done - start.done) / seconds : 0);
    const secondsLeft = given.secondsLeft ?? (rate > 0 ? (total - done) / rate : Number.POSITIVE_INFINITY);
    return { label, done, total, rate, secondsLeft };
  };
}

async function bar(stream: NodeJS.WriteStream): Promise<ProgressView> {
  const { default: cliProgress } = await import("cli-progress");
  const view = new cliProgress.SingleBar({
    stream,
    format: "{bar} {percentage} % | {value}/{total} | {speed} | {left} left | {label}",
    barCompleteChar: "\u2588",
    barIncompleteChar: "\u2591",
    barsize: 24,
    hideCursor: true,
    clearOnComplete: true,
    stopOnComplete: false,
    // Signals are handled by the program, which stops the view.
    gracefulExit: false,
  });
  const fill = measured();
  let state: "new" | "shown" | "stopped" = "new";
  return {
    update(progress) {
      const { label, done, total, rate, secondsLeft } = fill(progress);
      const payload = { label, speed: `${perSecond(rate)}/s`, left: duration(secondsLeft) };
      if (state === "new") view.start(total, done, payload);
      else if (state === "shown") {
        view.setTotal(total);
        view.update(done, payload);
      }
      if (state === "new") state = "shown";
    },
    stop() {
      if (state === "shown") view.stop();
      state = "stopped";
    },
  };
}

function lines(stream: NodeJS.WriteStream, every: number): ProgressView {
  const fill = measured();
  let last: number | undefined;
  let stopped = false;
  return {
    update(progress) {
      const filled = fill(progress);
      const now = performance.now();
      // The first line comes after one interval: short work prints nothing.
      last ??= now;
      if (stopped || now - last < every) return;
      last = now;
      stream.write(`${progressLine(filled)}\n`);
    },
    stop() {
      stopped = true;
    },
  };
}

/** Progress as one line: `convert: 12/160 (8 %), 40/s, 4 s left`. */
export function progressLine({ label, done, total, rate, secondsLeft }: Required<Progress>): string {
  const percent = total > 0 ? Math.floor((100 * done) / total) : 100;
  const head = label ? `${label}: ` : "";
  return `${head}${done}/${total} (${percent} %), ${perSecond(rate)}/s, ${duration(secondsLeft)} left`;
}

const perSecond = (rate: number): string => (rate >= 10 ? rate.toFixed(0) : rate.toPrecision(2));

/** Seconds for people: `4 s`, `3 min 20 s`, `2 h 5 min`; `?` when unknown. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}
