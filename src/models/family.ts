import * as v from "valibot";
import { branchKinds, insertBatchNorms, replaceConvs, withCompactors } from "../blocks/index.ts";
import type { Preprocessing } from "../data/index.ts";
import { fmt, must, nearest } from "../errors.ts";
import { type Module, type Net, resizedModule } from "../nn/index.ts";
import type { Shape } from "../tensor/index.ts";
import { layerPaths, prunedShapes as prunedSchema } from "./options.ts";

/** Preprocessing that belongs to a network's weights, with timm's field names. */
export interface PreprocessingConfig extends Preprocessing {
  /** Short edge after resizing, in pixels, or height and width; the centre `inputSize` is then cropped. */
  readonly resize: number | readonly [height: number, width: number];
  readonly cropMode: "center" | "squash";
  readonly interpolation: "bilinear" | "bicubic";
}

/** Options that every named model understands. */
export interface CreateOptions {
  readonly numClasses?: number;
  /** Height and width of the input in pixels. */
  readonly imageSize?: number;
  /** Of a pruned network: shapes of the parameters that are narrower, by key, with 0 for sizes that stay. */
  readonly prunedShapes?: PrunedShapes;
  /** Of a network that ResRep prunes: layers with a compactor; see {@link withCompactors}. */
  readonly compactors?: readonly string[];
}

/** Options that say what was made of a family's network afterwards. */
const sharedOptions: Readonly<Record<string, v.GenericSchema>> = { prunedShapes: prunedSchema, compactors: layerPaths };

/** See {@link CreateOptions.prunedShapes}. */
export type PrunedShapes = Readonly<Record<string, Shape>>;

/** {@link CreateOptions}, and those of one family. */
export type ModelOptions = CreateOptions & Readonly<Record<string, unknown>>;

/** An accuracy that was published for a variant. */
export interface Figure {
  /** Top-1 in percent, on ImageNet where the source does not say otherwise. */
  readonly top1: number;
  /** Height and width of the pictures it was measured on. */
  readonly imageSize: number;
  /** Who states it. */
  readonly source: string;
}

/** Sizes that were published for a variant. */
export interface PublishedSize {
  readonly form: "train" | "deploy";
  /** Learnable parameters, as they are written there: `4.76 M`, `9,108,968`. */
  readonly parameters?: string;
  /** Multiply-adds of one picture, as they are written there: `0.83 G`. */
  readonly macs?: string;
  /** Height and width of that picture, where it is not the variant's own. */
  readonly imageSize?: number;
  /** Who states it. */
  readonly source: string;
  /** Why the network has other sizes, where it has. */
  readonly difference?: string;
}

/** A network that has a name: a family with some options set. */
export interface Variant<O = ModelOptions> {
  readonly description: string;
  readonly aliases?: readonly string[];
  readonly options?: Partial<O>;
  /** The network, of another family, whose deploy form this one's is: a file of it alone does not tell which was trained. */
  readonly deploysAs?: string;
  readonly figures?: readonly Figure[];
  readonly sizes?: readonly PublishedSize[];
}

/** The way from one naming of keys to that of this package and back; it may depend on which other keys there are. */
export interface KeyNames {
  /** The name here of a key as it is called there. */
  readonly toOwn: (key: string, keys: ReadonlySet<string>) => string;
  /** The name there of a key as it is called here. */
  readonly fromOwn: (key: string, keys: ReadonlySet<string>) => string;
}

/**
 * Names that differ in some parts of the keys. A pair `[theirs, own]` holds one or several whole parts, `a.b`, wherever
 * they stand, or those that a key begins with, `^a.b`; pairs are taken one after the other.
 */
export function keyParts(pairs: readonly (readonly [theirs: string, own: string])[]): KeyNames {
  const replacing =
    (changes: readonly (readonly [from: string, to: string])[]) =>
    (key: string): string =>
      changes.reduce((changed, [from, to]) => {
        const begins = from.startsWith("^");
        const part = begins ? from.slice(1) : from;
        if (begins) return changed.startsWith(`${part}.`) ? to.slice(1) + changed.slice(part.length) : changed;
        return `.${changed}.`.replaceAll(`.${part}.`, `.${to}.`).slice(1, -1);
      }, key);
  return {
    toOwn: replacing(pairs),
    fromOwn: replacing(pairs.map(([theirs, own]) => [own, theirs] as const).reverse()),
  };
}

/** How state-dict keys are named, by the authors or by another library. */
export interface Naming {
  /** Whose names these are. */
  readonly name: string;
  /**
   * A few keys that only this family has: a state dict may be one of its networks if it has all of one of these lists.
   * No network is built before that.
   */
  readonly signature: readonly (readonly string[])[];
  /** Default: the names are those that keys have here. */
  readonly names?: KeyNames;
  /** How pictures are prepared for weights from there, where that differs: made of the family's own. */
  readonly preprocessing?: (own: PreprocessingConfig) => PreprocessingConfig;
}

/** Another form to train in, made of the merged one. */
export interface TrainingForm {
  /** What it is, for messages. */
  readonly description: string;
  /** What asks for it on the command line. */
  readonly flag: string;
  /** A part of a key that no other form has: without it a state dict is not compared with this form. */
  readonly keyPart?: string;
  /** Throws where there is nothing to make it of. */
  readonly make: <M extends Module>(merged: M) => M;
}

/**
 * The training forms that every family has: branches beside the merged network's convolutions, see {@link replaceConvs}, or
 * batch norms behind them, see {@link insertBatchNorms}.
 */
const usualForms: Readonly<Record<string, TrainingForm>> = {
  ...Object.fromEntries(
    branchKinds.map((kind): [string, TrainingForm] => [
      kind,
      {
        description: `merged form with branches of ${kind} beside its convolutions`,
        flag: `--replace-convs ${kind}`,
        keyPart: ".branches.",
        make: (merged) => replaceConvs(merged, kind),
      },
    ]),
  ),
  insertedNorms: {
    description: "merged form with batch norms behind its convolutions",
    flag: "--insert-batch-norms",
    keyPart: ".inserted_bn.",
    make: insertBatchNorms,
  },
};

/** A network inside of a network, whose weights a file of it alone can give. */
export interface Part {
  /** What its keys begin with there, `backbone.`. */
  readonly prefix: string;
  /** The network that it is a part of, or all of, by name, and that network's options. */
  readonly arch: string;
  readonly options: ModelOptions;
}

/** Everything that is known of a family of networks: what differs from one to another is data. */
export interface Family {
  readonly name: string;
  /** Name of the task that its networks are for. */
  readonly task: string;
  readonly variants: Readonly<Record<string, Variant>>;
  /** Names of the options. */
  readonly optionNames: readonly string[];
  /** Values of a variant's options, checked. Throws `models/option`. */
  options(variant: string, given: ModelOptions): ModelOptions;
  /** A network in training form, without values. */
  create(options: ModelOptions): Net;
  preprocessing(options: ModelOptions): PreprocessingConfig;
  /** The network inside of one with these options whose weights may come from a file of its own, such as a backbone. */
  part?(options: ModelOptions): Part;
  /** Whether the shape of a parameter depends on the size of the input: it begins anew at another size. */
  dependsOnSize(key: string): boolean;
  /** Names of keys, ours first. */
  readonly namings: readonly Naming[];
  readonly trainingForms: Readonly<Record<string, TrainingForm>>;
}

interface FamilyDefinition<O extends object> {
  readonly name: string;
  /** Default `classification`. */
  readonly task?: string;
  readonly variants: Readonly<Record<string, Variant<O>>>;
  /** What each option may be. */
  readonly options: { readonly [K in keyof O]-?: v.GenericSchema<unknown, O[K] & {}> };
  readonly create: (options: O) => Net;
  readonly preprocessing: (options: O) => PreprocessingConfig;
  /** See {@link Family.part}. Default none. */
  readonly part?: (options: O) => Part;
  /** See {@link Family.dependsOnSize}. Default no parameter. */
  readonly dependsOnSize?: (key: string) => boolean;
  readonly namings: readonly Naming[];
  readonly trainingForms?: Readonly<Record<string, TrainingForm>>;
}

/** Declares a family: data, of which nothing is built until a network of it is asked for. */
export function defineFamily<O extends object>(definition: FamilyDefinition<O>): Family {
  const { name, variants, options: entries, create, preprocessing, namings, trainingForms = {} } = definition;
  const { task = "classification", part, dependsOnSize = () => false } = definition;
  const optionNames = Object.keys(entries);
  return {
    ...{ name, task, optionNames, namings, dependsOnSize, trainingForms: { ...trainingForms, ...usualForms } },
    variants: variants as Readonly<Record<string, Variant>>,
    options(variant, given) {
      const own = Object.entries(given).filter(([, value]) => value !== undefined);
      for (const [option, value] of own) {
        if (Object.hasOwn(sharedOptions, option)) {
          mustFit(variant, option, sharedOptions[option], value);
          continue;
        }
        must(
          optionNames.includes(option),
          "models/option",
          () =>
            `models: ${variant} has no option "${option}". Did you mean ${nearest(option, optionNames, 1)}? It has ${optionNames.join(", ")}.`,
          "usage",
        );
        mustFit(variant, option, entries[option as keyof O], value);
      }
      return { ...variants[variant].options, ...Object.fromEntries(own) } as ModelOptions;
    },
    // What `options` has checked is what these take.
    create: ({ prunedShapes, compactors, ...options }) => {
      const whole = create(options as O);
      const net = prunedShapes ? narrower(whole, prunedShapes) : whole;
      return compactors ? withCompactors(net, compactors) : net;
    },
    preprocessing: (options) => preprocessing(options as O),
    ...(part && { part: (options: ModelOptions) => part(options as O) }),
  };
}

/** The network with narrower parameters. Throws `models/option` for shapes that are not of this network. */
function narrower(net: Net, prunedShapes: PrunedShapes): Net {
  const own = new Map([...net.state()].map(([key, { shape }]) => [key, shape]));
  const shapes = Object.entries(prunedShapes).map(([key, sizes]) => {
    const whole = own.get(key);
    must(
      whole && whole.length === sizes.length && sizes.every((d, i) => d <= whole[i]),
      "models/option",
      () =>
        `models: option prunedShapes: ${key} is to be ${fmt(sizes)}, ${whole ? `but is ${fmt(whole)} in the whole network` : "which the network does not have"}. Take them from the file of the pruned network.`,
      "usage",
    );
    return [key, sizes.map((d, i) => d || whole[i])] as const;
  });
  return resizedModule(net, new Map(shapes));
}

/** What of a network is narrower than of the whole one: option `prunedShapes`; `undefined` where nothing is. */
export function prunedShapesOf(whole: Module, net: Module): PrunedShapes | undefined {
  const now = new Map([...net.state()].map(([key, { shape }]) => [key, shape]));
  const changed = [...whole.state()].flatMap(([key, { shape }]) => {
    const sizes = shape.map((d, i) => (now.get(key)?.[i] === d ? 0 : (now.get(key)?.[i] ?? 0)));
    return sizes.some((d) => d > 0) ? [[key, sizes] as const] : [];
  });
  return changed.length ? Object.fromEntries(changed) : undefined;
}

/** Throws `models/option` naming the place, what is expected there and what is found. */
function mustFit(variant: string, option: string, schema: v.GenericSchema, value: unknown): void {
  const result = v.safeParse(schema, value);
  if (result.success) return;
  const [{ message, path = [], input }] = result.issues;
  const at = path.map(({ key }) => `[${String(key)}]`).join("");
  must(
    false,
    "models/option",
    () => `models: ${variant}: option ${option}${at} must be ${message}, got ${shown(input)}.`,
    "usage",
  );
}

function shown(value: unknown): string {
  const text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? typeof value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

const edges = (size: number | readonly [number, number]): readonly [number, number] =>
  typeof size === "number" ? [size, size] : size;

/** Preprocessing of RGB pictures of one size; `resize` is the short edge before the crop, by default the size itself. */
export function picturesOf(
  imageSize: number | readonly [height: number, width: number],
  normalization: Pick<Preprocessing, "mean" | "std">,
  resize: (size: number) => number = (size) => size,
): PreprocessingConfig {
  const [height, width] = edges(imageSize);
  return {
    inputSize: [normalization.mean.length, height, width],
    resize: height === width ? resize(height) : [height, width],
    cropMode: "center",
    interpolation: "bilinear",
    ...normalization,
  };
}
