import * as v from "valibot";
import type { Preprocessing } from "../data/index.ts";
import { must } from "../errors.ts";
import type { ModelForm, ModelOptions } from "../models/index.ts";
import type { Module } from "../nn/index.ts";
import { coefficientsOf } from "../nn/index.ts";
import type { OnnxModel } from "../onnx/index.ts";

/** Where exported weights came from. */
export interface ExportSource {
  /** Name of the checkpoint file. */
  readonly name: string;
  /** SHA-256 of the file, hexadecimal. */
  readonly sha256: string;
}

/** What an exported file says of itself; kept as strings in the model's `metadata_props`. */
export interface ExportMetadata {
  readonly arch?: string;
  readonly form?: ModelForm;
  /** Type of the weights. */
  readonly dtype?: string;
  readonly preprocessing?: Preprocessing;
  /** Class names; an output's index is an index into them. */
  readonly labels?: readonly string[];
  /** What a task's settings say that its tests must know, such as a label to be ignored; with its name as `kind`. */
  readonly task?: TaskMetadata;
  readonly source?: ExportSource;
  /** Largest difference of the logits from those of the network it was made of, found when it was exported. */
  readonly checkMaxAbsDiff?: number;
  /** Further entries, as they are. */
  readonly extra?: Readonly<Record<string, string>>;
}

/** A task's name and settings. */
export type TaskMetadata = { readonly kind: string } & Readonly<Record<string, unknown>>;

const preprocessingSchema = v.object({
  inputSize: v.pipe(
    v.tuple([v.number(), v.number(), v.number()]),
    v.check((size) => size.every((d) => Number.isInteger(d) && d > 0), "positive integers"),
  ),
  cropPct: v.optional(v.number()),
  cropMode: v.optional(v.picklist(["center", "squash"])),
  interpolation: v.optional(v.picklist(["bilinear", "bicubic"])),
  resize: v.optional(v.union([v.number(), v.tuple([v.number(), v.number()])])),
  mean: v.array(v.number()),
  std: v.array(v.number()),
});

const taskSchema = v.pipe(
  v.looseObject({ kind: v.string() }),
  v.transform((task): TaskMetadata => task),
);

const known = [
  "arch",
  "form",
  "dtype",
  "preprocessing",
  "labels",
  "task",
  "source",
  "source_sha256",
  "check_max_abs_diff",
];

/** Stated where there is more to say of a task than its name, which the architecture tells. */
const statedTask = (task: TaskMetadata | undefined): { readonly task?: string } =>
  task && Object.keys(task).length > 1 ? { task: JSON.stringify(task) } : {};

/** Metadata as the strings that a file holds. */
export function writeMetadata(metadata: ExportMetadata): Record<string, string> {
  const { arch, form, dtype, preprocessing, labels, task, source, checkMaxAbsDiff, extra = {} } = metadata;
  const clash = Object.keys(extra).find((key) => known.includes(key));
  must(
    clash === undefined,
    "export/metadata",
    () => `export: metadata "${clash}" is written by the export itself. Use another name.`,
    "usage",
  );
  const entries = {
    arch,
    form,
    dtype,
    preprocessing: preprocessing && JSON.stringify(preprocessing),
    labels: labels && JSON.stringify(labels),
    ...statedTask(task),
    source: source?.name,
    source_sha256: source?.sha256,
    check_max_abs_diff: checkMaxAbsDiff?.toExponential(3),
    ...extra,
  };
  return Object.fromEntries(Object.entries(entries).filter((e): e is [string, string] => e[1] !== undefined));
}

/** What a checkpoint says of its network, for {@link readModel} to read; an entry that is not known is absent. */
export function checkpointMetadata(of: {
  readonly arch?: string | undefined;
  /** Options of the architecture other than its own. */
  readonly options?: ModelOptions;
  readonly classes?: readonly string[];
  readonly preprocessing?: Preprocessing;
  readonly task?: TaskMetadata;
}): Record<string, string> {
  const { arch, options = {}, classes, preprocessing, task } = of;
  return {
    ...(arch !== undefined && { arch }),
    ...(Object.keys(options).length > 0 && { options: JSON.stringify(options) }),
    ...(classes && { classes: JSON.stringify(classes) }),
    ...(preprocessing && { preprocessing: JSON.stringify(preprocessing) }),
    ...statedTask(task),
  };
}

/** What a network's coefficients are at the moment, as a checkpoint states it; empty for a network without. */
export function coefficientMetadata(net: Module): { readonly coefficients?: string } {
  const own = [...coefficientsOf(net)].map(([name, { present }]) => [name, present] as const);
  return own.length ? { coefficients: JSON.stringify(Object.fromEntries(own)) } : {};
}

/**
 * Gives a network's coefficients what a checkpoint states of them; without a word they stay as they are.
 *
 * @throws `export/metadata` for numbers that are none, `open/coefficients` for those of another network
 */
export function restoreCoefficients(
  net: Module,
  { coefficients }: Readonly<Record<string, string>>,
  where: string,
): void {
  const stated = parsed("coefficients", v.record(v.string(), v.pipe(v.number(), v.finite())), coefficients, where);
  const own = coefficientsOf(net);
  for (const [name, value] of Object.entries(stated.coefficients ?? {})) {
    const coefficient = own.get(name);
    must(
      coefficient,
      "open/coefficients",
      () => `${where}: states a coefficient "${name}", which the network does not have. Take it out of the metadata.`,
      "file",
    );
    coefficient.set(value);
  }
}

/**
 * Reads what {@link writeMetadata} wrote; an entry that is not there is absent.
 *
 * @throws RepmlpError `export/metadata` for an entry that cannot be what it says
 */
export function readMetadata({ metadata = {} }: Pick<OnnxModel, "metadata">, where = "onnx"): ExportMetadata {
  const { arch, form, dtype, source, source_sha256: sha256, check_max_abs_diff: difference } = metadata;
  const extra = Object.fromEntries(Object.entries(metadata).filter(([key]) => !known.includes(key)));
  return {
    ...(arch !== undefined && { arch }),
    ...((form === "train" || form === "deploy") && { form }),
    ...(dtype !== undefined && { dtype }),
    ...parsed("preprocessing", preprocessingSchema, metadata.preprocessing, where),
    ...parsed("labels", v.array(v.string()), metadata.labels, where),
    ...parsed("task", taskSchema, metadata.task, where),
    ...(source !== undefined && sha256 !== undefined && { source: { name: source, sha256 } }),
    ...(difference !== undefined && { checkMaxAbsDiff: Number(difference) }),
    ...(Object.keys(extra).length > 0 && { extra }),
  };
}

function parsed<K extends string, T>(
  key: K,
  schema: v.GenericSchema<unknown, T>,
  text: string | undefined,
  where: string,
): Partial<Record<K, T>> {
  if (text === undefined) return {};
  const result = v.safeParse(schema, jsonOf(text));
  must(
    result.success,
    "export/metadata",
    () => `${where}: the metadata "${key}" is not usable (${result.issues?.[0].message}). Export the file again.`,
    "file",
  );
  return { [key]: result.output } as Record<K, T>;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
