import { must } from "../errors.ts";
import type { OpenModelOptions } from "../inference/node/open-model.ts";
import type { Io } from "./io.ts";

/** What commands that open a checkpoint have in common. */
export interface WeightsOptions {
  readonly arch?: string | undefined;
  readonly imageSize?: number | undefined;
  readonly numClasses?: number | undefined;
  readonly key: string | undefined;
  readonly prefix: string | undefined;
  readonly modelOption: readonly string[];
}

/** How to open a checkpoint, from a command's options. Throws `cli/model-option`. */
export const weightsOptions = (options: WeightsOptions): OpenModelOptions => {
  const { arch, imageSize, numClasses, key, prefix, modelOption } = options;
  return {
    arch,
    imageSize,
    numClasses,
    key,
    prefix,
    ...(modelOption.length && { model: modelOptionsOf(modelOption) }),
  };
};

/** `channels=[8,16,32]` and `mixer=conv3`: JSON where it is some, else text. Throws `cli/model-option`. */
export function modelOptionsOf(
  given: readonly string[],
  [flag, example] = ["--model-option", "channels=[8,16,32]"],
): Record<string, unknown> {
  return Object.fromEntries(
    given.map((text) => {
      const at = text.indexOf("=");
      must(
        at > 0,
        "cli/model-option",
        () => `${flag} ${text}: must be a name and a value, such as ${example}.`,
        "usage",
      );
      return [text.slice(0, at), jsonOr(text.slice(at + 1))];
    }),
  );
}

function jsonOr(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Says what of a file was taken, or left out. */
export function noteRemarks(io: Io, path: string, remarks: readonly string[]): void {
  for (const remark of remarks) io.note(`${path}: ${remark}`);
}
