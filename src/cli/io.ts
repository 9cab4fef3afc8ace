import { styleText } from "node:util";
import { visibleLines } from "../text.ts";
import { openProgress, type ProgressView } from "./progress.ts";

type Style = (format: Parameters<typeof styleText>[0], text: string) => string;

/** What a command prints through: results to stdout, everything else to stderr. */
export interface Io {
  readonly json: boolean;
  readonly quiet: boolean;
  /**
   * Prints a result: with `--json` the value as one line of JSON, else the text. May be called several times (events
   * of a long run).
   */
  result(value: unknown, text: () => string): void;
  /** Says something on the way, on stderr; not with `--quiet`. */
  note(text: string): void;
  /** Says something that the user should act on, on stderr. */
  warn(text: string): void;
  /** A text of the library with the command's options in place of the library's; notes, warnings and errors are so anyway. */
  advice(text: string): string;
  /** From now on prints nothing but warnings and errors: another process tells the rest. */
  silence(): void;
  /** A progress display on stderr; silent with `--quiet` and `--json`. Call `stop` when done. */
  progress(): ProgressView;
  /** Colours for results; plain where stdout is no terminal or NO_COLOR is set. */
  readonly style: Style;
  /**
   * Aborted by Ctrl-C. A command that reads it is waited for, so that it can clean up; one that never does is ended at
   * once.
   */
  readonly signal: AbortSignal;
}

/** Streams that a command line talks through. */
export interface Streams {
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
}

/** Whether to colour: on a terminal, unless NO_COLOR (or TERM=dumb) is set. */
const inColour = (stream: NodeJS.WriteStream): boolean => stream.isTTY === true && stream.hasColors();

const colourCode = new RegExp(`(${String.fromCharCode(27)}\\[[\\d;]*m)`);

/** Names from files cannot do anything to the terminal; colours of our own stay. */
function printable(text: string, coloured: boolean): string {
  if (!coloured) return visibleLines(text);
  return text
    .split(colourCode)
    .map((part, i) => (i % 2 ? part : visibleLines(part)))
    .join("");
}

export function createIo(
  { stdout, stderr }: Streams,
  { json, quiet, advice = (text) => text }: Pick<Io, "json" | "quiet"> & Partial<Pick<Io, "advice">>,
  watchSignal: () => AbortSignal,
): Io {
  const style: Style = inColour(stdout) ? (format, text) => styleText(format, text) : (_, text) => text;
  // Both streams may be one terminal: what is printed must not land on the live line.
  let live: ProgressView | undefined;
  let silent = false;
  const print = (stream: NodeJS.WriteStream, text: string): void => {
    live?.clear();
    stream.write(`${text}\n`);
  };
  return {
    json,
    quiet,
    style,
    result: (value, text) => {
      if (!silent) print(stdout, json ? JSON.stringify(value) : printable(text(), inColour(stdout)));
    },
    advice,
    note: (text) => void (quiet || silent || print(stderr, visibleLines(advice(text)))),
    warn: (text) => print(stderr, `warning: ${visibleLines(advice(text))}`),
    silence: () => {
      silent = true;
    },
    progress: () => {
      live = openProgress(stderr, { silent: quiet || json || silent });
      return live;
    },
    get signal() {
      return watchSignal();
    },
  };
}
