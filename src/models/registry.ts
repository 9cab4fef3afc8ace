import { listed, must, nearest } from "../errors.ts";
import type { Net } from "../nn/index.ts";
import { acnetCifar } from "./acnet-cifar.ts";
import { cifarResnet } from "./cifar-resnet.ts";
import { faces } from "./face-family.ts";
import type { Family, ModelOptions, Part, PreprocessingConfig, Variant } from "./family.ts";
import { fastvit } from "./fastvit.ts";
import { lenet } from "./lenet.ts";
import { mobilefacenet } from "./mobilefacenet.ts";
import { mobilenet } from "./mobilenet.ts";
import { mobileone } from "./mobileone.ts";
import { pspnet } from "./pspnet-family.ts";
import { qarepvgg } from "./qarepvgg.ts";
import { repghost } from "./repghost.ts";
import { replknet } from "./replknet.ts";
import { repmlpCifar } from "./repmlp-cifar.ts";
import { repmlpMixer } from "./repmlp-mixer.ts";
import { repmlpResNet } from "./repmlp-resnet.ts";
import { repmlpnet } from "./repmlpnet.ts";
import { repoptvgg } from "./repopt-vgg.ts";
import { repvgg } from "./repvgg.ts";
import { repvggplus } from "./repvggplus.ts";
import { repvit } from "./repvit.ts";
import { resnet } from "./resnet.ts";
import { unet } from "./unet.ts";
import { unireplknet } from "./unireplknet.ts";
import { vanillanet } from "./vanillanet.ts";

/** All there are. What a family is lies in its own file. */
export const families: readonly Family[] = [
  repmlpResNet,
  resnet,
  mobilenet,
  acnetCifar,
  cifarResnet,
  lenet,
  repmlpCifar,
  repmlpMixer,
  repmlpnet,
  repvgg,
  repvggplus,
  qarepvgg,
  repoptvgg,
  replknet,
  unireplknet,
  repvit,
  mobileone,
  repghost,
  vanillanet,
  fastvit,
  pspnet,
  unet,
  faces,
  mobilefacenet,
];

/** A network by name. */
interface Named {
  readonly name: string;
  readonly family: Family;
  readonly variant: Variant;
}

let index: Map<string, Named> | undefined;

/** By lower-case name and alias; made when the first name is looked up. */
function named(): Map<string, Named> {
  if (index) return index;
  index = new Map();
  for (const family of families)
    for (const [name, variant] of Object.entries(family.variants))
      for (const key of [name, ...(variant.aliases ?? [])]) index.set(key.toLowerCase(), { name, family, variant });
  return index;
}

/** Names of the models, sorted; with a glob (`*`, `?`) those that match it, whatever the case. */
export function listModels(glob = "*"): string[] {
  const pattern = glob
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  const regex = new RegExp(`^${pattern}$`, "i");
  return families
    .flatMap(({ variants }) => Object.keys(variants))
    .filter((name) => regex.test(name))
    .sort();
}

/** What is known of a model without building it. */
export interface ModelInfo extends Pick<Variant, "description" | "figures" | "sizes"> {
  readonly name: string;
  /** Name of the family. */
  readonly family: string;
  /** Name of the task that it is for. */
  readonly task: string;
  /** Channels, and height or width of the input. */
  readonly channels: number;
  readonly imageSize: number;
  /** With options other than the model's own. Throws `models/option`. */
  preprocessing(options: ModelOptions): PreprocessingConfig;
}

/** What is known of a model without building it. Throws `models/unknown` with the names that are near. */
export function modelInfo(model: string): ModelInfo {
  const { name, family, variant } = find(model);
  const preprocessing = (options: ModelOptions): PreprocessingConfig =>
    family.preprocessing(family.options(name, options));
  const [channels, imageSize] = preprocessing({}).inputSize;
  const { description, figures, sizes } = variant;
  return {
    ...{ name, family: family.name, task: family.task, description, channels, imageSize, preprocessing },
    ...(figures && { figures }),
    ...(sizes && { sizes }),
  };
}

/** Name of the task that a model is for; what is not known here is taken for a network of classes. */
export const taskOfModel = (model: string | undefined): string =>
  (model === undefined ? undefined : named().get(model.toLowerCase()))?.family.task ?? "classification";

/** The family that a model is of. Throws `models/unknown` with the names that are near. */
export const familyOf = (model: string): Family => find(model).family;

/** The network inside of a model whose weights may come from a file of its own; `undefined` for a model without. */
export function partOf(model: string, options: ModelOptions = {}): Part | undefined {
  const { name, family } = find(model);
  return family.part?.(family.options(name, options));
}

function find(name: string): Named {
  const found = named().get(name.toLowerCase());
  must(
    found,
    "models/unknown",
    () => {
      // Those that begin with it first.
      const containing = new Set([...listModels(`${name}*`), ...listModels(`*${name}*`)]);
      const hints = containing.size ? [...containing] : nearest(name, listModels());
      return `models: there is no "${name}". Did you mean ${listed(hints, 3)}?`;
    },
    "usage",
  );
  return found;
}

/**
 * Builds a model by name, in training form and without values; initialize it or load a state dict. Names and aliases
 * are compared without case.
 *
 * @param options  those of the model's class beside `numClasses` and `imageSize`; `undefined` stands for the default
 * @throws `models/unknown`, `models/option` for an option that there is not or whose value it cannot have
 */
export function createModel(name: string, options: ModelOptions = {}): Net {
  const { name: canonical, family } = find(name);
  return family.create(family.options(canonical, options));
}
