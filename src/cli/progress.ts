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
  /** The whole line, where the usual one does not say it. */
  readonly line?: string;
}

/** A display of {@link Progress}. */
export interface ProgressView {
  update(progress: Progress): void;
  /** Makes room for other text on the terminal; the next update shows the display again. */
  clear(): void;
  /** Takes the display away; later updates do nothing. */
  stop(): void;
}

/** Milliseconds between two lines where there is no terminal. */
const LINE_EVERY = 5000;

/** Milliseconds between two looks of the line on a terminal. */
const REDRAW_EVERY = 100;

const silent: ProgressView = { update() {}, clear() {}, stop() {} };

/** A live line on a terminal, a plain line every few seconds elsewhere. */
export function openProgress(
  stream: NodeJS.WriteStream,
  options: { readonly silent?: boolean; readonly lineEvery?: number } = {},
): ProgressView {
  if (options.silent) return silent;
  return stream.isTTY ? liveLine(stream) : lines(stream, options.lineEvery ?? LINE_EVERY);
}

type Filled = Required<Omit<Progress, "line">> & Pick<Progress, "line">;

/** Fills in rate and remaining time from the time since the first update, of this label and this pass over it. */
function measured(): (progress: Progress) => Filled {
  let start: { readonly time: number; readonly done: number; readonly label: string } | undefined;
  let last = 0;
  return ({ label = "", done, total, line, ...given }) => {
    const now = performance.now();
    if (!start || start.label !== label || done < last) start = { time: now, done, label };
    last = done;
    const seconds = (now - start.time) / 1000;
    const rate = given.rate ?? (seconds > 0 ? (done - start.done) / seconds : 0);
    const secondsLeft = given.secondsLeft ?? (rate > 0 ? (total - done) / rate : Number.POSITIVE_INFINITY);
    return { label, done, total, rate, secondsLeft, ...(line !== undefined && { line }) };
  };
}

/**
 * One line that is written over again, at most ten times a second. It is cut at the terminal's edge, so that it stays one
 * line, and a bar takes what room the words leave.
 */
function liveLine(stream: NodeJS.WriteStream): ProgressView {
  const fill = measured();
  let last = Number.NEGATIVE_INFINITY;
  let state: "away" | "shown" | "stopped" = "away";
  // It only gets shorter, so that it does not jitter with the words.
  let bar: number = BAR.longest;
  const clear = (): void => {
    if (state === "shown") stream.write("\r\x1b[K");
    if (state === "shown") state = "away";
  };
  return {
    update(progress) {
      const filled = fill(progress);
      const now = performance.now();
      if (state === "stopped" || (now - last < REDRAW_EVERY && filled.done < filled.total)) return;
      last = now;
      state = "shown";
      const columns = (stream.columns || 80) - 1;
      bar = Math.min(bar, columns - progressLine(filled).length - 1);
      stream.write(`\r${withBar(filled, bar).slice(0, columns)}\x1b[K`);
    },
    clear,
    stop() {
      clear();
      state = "stopped";
    },
  };
}

/** Characters that a bar has. */
const BAR = { shortest: 8, longest: 24 } as const;

function withBar(progress: Filled, length: number): string {
  const text = progressLine(progress);
  if (length < BAR.shortest) return text;
  const full = progress.total > 0 ? Math.round((length * progress.done) / progress.total) : length;
  return `${"\u2588".repeat(full)}${"\u2591".repeat(length - full)} ${text}`;
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
    clear() {},
    stop() {
      stopped = true;
    },
  };
}

/** Progress as one line: `convert: 12/160 (8 %), 40/s, 4 s left`. */
export function progressLine({ label, done, total, rate, secondsLeft, line }: Filled): string {
  if (line !== undefined) return line;
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
