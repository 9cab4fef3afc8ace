import { RepmlpError } from "../errors.ts";
import type { OptionSpecs } from "./spec.ts";

/** Exit codes of the program; 128 + n when ended by signal n. */
export const exitCodes = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** What a thrown error is for the user. */
export interface Failure {
  readonly exitCode: number;
  readonly code: string;
  /** One clean sentence or two; never a stack trace. */
  readonly message: string;
}

/** A failure in words: ours as they are, those of the system with their reason, bugs as such. */
export function failureOf(error: unknown): Failure {
  if (error instanceof RepmlpError) {
    const exitCode = error.kind === "usage" ? exitCodes.usage : exitCodes.failed;
    return { exitCode, code: error.code, message: oneLine(error.message) };
  }
  const { code, syscall, message } = error as Partial<NodeJS.ErrnoException>;
  if (typeof syscall === "string" && typeof code === "string")
    return { exitCode: exitCodes.failed, code: `system/${code}`, message: oneLine(message ?? code) };
  return {
    exitCode: exitCodes.failed,
    code: "internal",
    message: `internal: ${oneLine(message ?? String(error))}. This is a bug: please report it with the output of REPMLP_DEBUG=1.`,
  };
}

/**
 * A text of the library for who stands at a command: where it names one of the library's options, \`imageSize\`, the
 * command's own option takes its place, --image-size.
 */
export const inFlags = (text: string, options: OptionSpecs): string =>
  text.replace(/`([a-z][A-Za-z0-9]*)`/g, (written, name: string) => flagOf(name, options) ?? written);

/** The option of a command that stands for one of the library's, as it is typed. */
export function flagOf(name: string, options: OptionSpecs): string | undefined {
  const found = options[name] ?? Object.values(options).find(({ library }) => library?.includes(name));
  return found && /--[a-z0-9-]+/.exec(found.flags)?.[0];
}

const oneLine = (text: string): string => text.trim().replace(/\s*\n\s*/g, " ");

/** The stack with all causes, for REPMLP_DEBUG=1. */
export function trail(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const stack = error.stack ?? String(error);
  return error.cause === undefined ? stack : `${stack}\ncaused by: ${trail(error.cause)}`;
}
