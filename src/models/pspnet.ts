import { AuxiliaryHead, PyramidPooling, resizeAligned, SegmentationHead } from "../blocks/index.ts";
import { fmt, must } from "../errors.ts";
import type { Value } from "../graph/index.ts";
import { cloneWith, Module, type Outputs } from "../nn/index.ts";
import type { Backbone } from "./backbone.ts";

export interface PSPNetOptions {
  readonly numClasses: number;
  /** Regions along each side in the pyramid pooling module. Default 1, 2, 3, 6. */
  readonly bins?: readonly number[];
  /** Channels inside the main head. Default a quarter of the last map's. */
  readonly midChannels?: number;
  /** Channels inside the auxiliary head. Default a quarter of its map's. */
  readonly auxChannels?: number;
  /** Of channels in both heads. Default 0.1. */
  readonly dropout?: number;
  /** How much the auxiliary head's loss counts. Default 0.4. */
  readonly auxWeight?: number;
}

/**
 * PSPNet (arXiv 1612.01105): a backbone, whose dilated stages keep maps of 1/8, pyramid pooling and a head on its last map,
 * and in training an auxiliary head on the one before; logits are resized to the input. Conversion merges backbone and
 * heads, and leaves the auxiliary head out. Keys `backbone.*` (those of the classifier, without `linear.*`), and as in the
 * author's code `ppm.*`, `cls.*`, `aux.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses, H, W]`. With (H − 1) and (W − 1) divisible by 8 the corners of maps and picture agree.
 */
export class PSPNet<B extends Backbone = Backbone> extends Module {
  readonly backbone: B;
  readonly ppm: PyramidPooling;
  readonly cls: SegmentationHead;
  readonly aux: AuxiliaryHead | undefined;
  readonly outputWeights: Readonly<Record<string, number>>;

  /** @param backbone  a network of classes, trained or not, built with {@link BackboneOptions}; its values are shared */
  constructor(backbone: B, { numClasses, bins, dropout, auxWeight = 0.4, ...options }: PSPNetOptions) {
    super();
    const [, , earlier, last] = backbone.channels;
    const { midChannels = Math.floor(last / 4), auxChannels = Math.floor(earlier / 4) } = options;
    const withoutClassifier: Module & { readonly linear: unknown } = backbone;
    this.backbone = cloneWith(withoutClassifier, { linear: undefined }) as B;
    this.ppm = new PyramidPooling(last, bins);
    this.cls = new SegmentationHead({ inChannels: this.ppm.outChannels, midChannels, numClasses, dropout });
    this.aux = new AuxiliaryHead({ inChannels: earlier, midChannels: auxChannels, numClasses, dropout });
    this.outputWeights = { aux: auxWeight };
  }

  forward(x: Value): Value {
    return this.main(x, this.backbone.features(x)[3]);
  }

  /** The logits of both heads, each `[N, numClasses, H, W]`: `output` and, in the training form, `aux`. */
  trainingOutputs(x: Value): Outputs {
    const [, , earlier, last] = this.backbone.features(x);
    const output = this.main(x, last);
    return this.aux ? { output, aux: sized(this.aux.forward(earlier), x) } : { output };
  }

  private main(x: Value, last: Value): Value {
    return sized(this.cls.forward(this.ppm.forward(last)), x);
  }
}

/** Logits in the height and width of the picture. */
function sized(logits: Value, x: Value): Value {
  const [, , height, width] = x.shape;
  must(x.shape.length === 4, "pspnet/input", () => `pspnet: pictures must be [N, C, H, W], got ${fmt(x.shape)}`);
  return resizeAligned(logits, [height, width]);
}
