import { ConvBnRelu, RepOptSearchBlock } from "../blocks/index.ts";
import type { Net } from "../nn/index.ts";
import { defineFamily, type Variant } from "./family.ts";
import { yesOrNo } from "./options.ts";
import { type Four, RepVGG, type RepVGGLayer, type RepVGGOptions, repvggPictures, repvggSchema } from "./repvgg.ts";

/**
 * RepOpt-VGG (arXiv 2205.15242): {@link RepVGG} without branches, 3×3 convolutions with batch norm and ReLU, which trains
 * like one with them under RepOptimizer (`repSgd`, `repAdamW`). Keys `stage0.conv.weight`, `stage0.bn.*`,
 * `stage{1..4}.{i}.*`, `linear.*`; merged `conv.weight`, `conv.bias`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class RepOptVGG extends RepVGG {
  protected override block({ inChannels, outChannels, stride, dilation = 1, groups }: RepVGGLayer): Net {
    return new ConvBnRelu(inChannels, outChannels, { kernelSize: 3, stride, dilation, padding: dilation, groups });
  }
}

/**
 * The network in which RepOptimizer's scales are found, on a small data set: {@link RepVGG} of `RepOptSearchBlock`s, whose
 * scales begin with √(2/i) in the i-th block of a stage. Keys as {@link RepOptVGG}'s and `scale_conv`, `conv_1x1`,
 * `scale_1x1`, `scale_identity`.
 */
export class RepOptSearchVGG extends RepVGG {
  protected override block({ position, ...layer }: RepVGGLayer): Net {
    return new RepOptSearchBlock({ ...layer, scale: Math.sqrt(2 / (position + 1)) });
  }
}

export interface RepOptVGGOptions extends Omit<RepVGGOptions, "useSe"> {
  /** Whether it is a {@link RepOptSearchVGG}. Default false. */
  readonly search?: boolean;
}

const README = "RepOptimizer's README";

const shape = (numBlocks: Four, width: number): Pick<RepVGGOptions, "numBlocks" | "widthMultiplier"> => ({
  numBlocks,
  widthMultiplier: [width, width, width, 2 * width],
});

/** A network, and the one that finds its scales. */
function variants(
  name: string,
  numBlocks: Four,
  width: number,
  top1: number,
  parameters?: string,
): Record<string, Variant<RepOptVGGOptions>> {
  const described = `plain 3 x 3 convolutions, widths ${width} and ${2 * width}`;
  return {
    [name]: {
      description: `${described}, to be trained with RepOptimizer (--scales)`,
      options: shape(numBlocks, width),
      figures: [{ top1, imageSize: 224, source: README }],
      ...(parameters && { sizes: [{ form: "deploy", parameters, source: README }] }),
    },
    [`${name}-search`]: {
      description: `${described}, beside 1 x 1 and identity with learnable scales: finds the scales of ${name}`,
      deploysAs: name,
      options: { ...shape(numBlocks, width), search: true },
    },
  };
}

const { useSe: _, ...schema } = repvggSchema;

export const repoptvgg = defineFamily<RepOptVGGOptions>({
  name: "RepOpt-VGG",
  variants: {
    ...variants("RepOpt-VGG-B1", [4, 6, 16, 1], 2, 78.62, "51.8 M"),
    ...variants("RepOpt-VGG-B2", [4, 6, 16, 1], 2.5, 79.68),
    ...variants("RepOpt-VGG-L1", [8, 14, 24, 1], 2, 79.82),
    ...variants("RepOpt-VGG-L2", [8, 14, 24, 1], 2.5, 80.47),
  },
  options: { ...schema, search: yesOrNo },
  create: ({ search, ...options }) => (search ? new RepOptSearchVGG(options) : new RepOptVGG(options)),
  preprocessing: ({ imageSize = 224 }) => repvggPictures(imageSize),
  namings: [{ name: "repopt", signature: [["stage0.conv.weight", "stage1.0.conv.weight", "linear.weight"]] }],
});
