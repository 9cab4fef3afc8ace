import { must } from "../../errors.ts";
import type { CommandName } from "../table.ts";
import type { TaskView } from "./view.ts";

interface Entry {
  /** Commands that networks of this task alone can be given to. */
  readonly commands?: readonly CommandName[];
  /** Options of commands that say something to this task and not to all. */
  readonly options: Readonly<Partial<Record<CommandName, readonly string[]>>>;
  readonly load: () => Promise<{ readonly view: TaskView }>;
}

/** Options of tiles; see the segmenter. */
const tiles = ["mirror", "scales", "stride", "whole"];

/** How each task is shown. What it is lies in its own file. */
const entries: Readonly<Record<string, Entry>> = {
  classification: {
    options: { test: ["resolution", "classMap", "shard", "csv", "minTop1", "strict"], predict: ["topK"] },
    load: () => import("./classification.ts"),
  },
  segmentation: {
    options: { test: [...tiles, "part", "overlays"], predict: [...tiles, "out"] },
    load: () => import("./segmentation.ts"),
  },
  faces: {
    commands: ["embed", "verify-faces"],
    options: { test: ["distractors"] },
    load: () => import("./faces.ts"),
  },
};

/**
 * How results of a task are shown.
 *
 * @param given  the command's options, of which none may be for other tasks alone
 * @throws `cli/option` naming an option that says nothing to this task
 */
export async function viewOf(
  task: string,
  command: CommandName,
  given: Readonly<Record<string, unknown>>,
): Promise<TaskView> {
  const own = entries[task]?.options[command] ?? [];
  const foreign = Object.values(entries)
    .flatMap(({ options }) => options[command] ?? [])
    .find((name) => !own.includes(name) && isGiven(given[name]));
  must(
    foreign === undefined,
    "cli/option",
    () => `${command}: --${kebab(foreign ?? "")} says nothing to a network for ${task}. Leave it out.`,
    "usage",
  );
  return (await entries[task].load()).view;
}

/** Throws `cli/task` unless a command can be given a network of this task. */
export function mustServe(command: CommandName, task: string, weights: string): void {
  const served = Object.keys(entries).filter((name) => entries[name].commands?.includes(command));
  must(
    served.includes(task),
    "cli/task",
    () =>
      `${weights}: holds a network for ${task}; ${command} takes one for ${served.join(" or ")}. \`repmlp models\` lists them.`,
    "usage",
  );
}

const isGiven = (value: unknown): boolean =>
  Array.isArray(value) ? value.length > 0 : value !== undefined && value !== false;

const kebab = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
