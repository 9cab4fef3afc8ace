import { QARepVGGBlock } from "../blocks/index.ts";
import type { Net } from "../nn/index.ts";
import { defineFamily, type Variant } from "./family.ts";
import { RepVGG, type RepVGGLayer, type RepVGGOptions, repvgg, repvggPictures, repvggSchema } from "./repvgg.ts";

/**
 * QARepVGG (arXiv 2212.01593): {@link RepVGG} of blocks that keep their accuracy when they are quantized; see
 * `QARepVGGBlock`. Merged it is a RepVGG. Keys as RepVGG's.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class QARepVGG extends RepVGG {
  protected override block(layer: RepVGGLayer): Net {
    return new QARepVGGBlock(layer);
  }
}

/** The network of the RepVGG of that name. */
function variant(name: string, more: Partial<Variant<RepVGGOptions>> = {}): Variant<RepVGGOptions> {
  const { options, description } = repvgg.variants[name];
  return { description: `${description}, made for quantization`, deploysAs: name, options: { ...options }, ...more };
}

export const qarepvgg = defineFamily<RepVGGOptions>({
  name: "QARepVGG",
  variants: {
    "QARepVGG-A0": variant("RepVGG-A0"),
    "QARepVGG-B0": variant("RepVGG-B0", {
      figures: [{ top1: 74.78, imageSize: 224, source: "QARepVGG's repository" }],
      sizes: [{ form: "train", parameters: "15,808,616", source: "the authors' code, counted" }],
    }),
    "QARepVGG-B1g4": variant("RepVGG-B1g4"),
  },
  options: repvggSchema,
  create: (options) => new QARepVGG(options),
  preprocessing: ({ imageSize = 224 }) => repvggPictures(imageSize),
  namings: [
    {
      name: "qarepvgg",
      signature: [["stage0.rbr_1x1.weight", "stage0.bn.weight"], ["stage0.rbr_reparam.weight"]],
    },
  ],
});
