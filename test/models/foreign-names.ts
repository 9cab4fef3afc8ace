/** Names that others give to keys, made of those here, written down apart from the library's own. */

export const repvggInTimm = (key: string): string =>
  key
    .replace(/^stage0/, "stem")
    .replace(/^stage(\d)/, (_, s: string) => `stages.${Number(s) - 1}`)
    .replace("linear.", "head.fc.")
    .replace("rbr_dense", "conv_kxk")
    .replace("rbr_1x1", "conv_1x1")
    .replace("rbr_identity", "identity")
    .replace("rbr_reparam", "reparam_conv")
    .replace("se.down", "attn.fc1")
    .replace("se.up", "attn.fc2");

export const mobileoneInTimm = (key: string): string =>
  key
    .replace(/^stage0/, "stem")
    .replace(/^stage(\d)/, (_, s: string) => `stages.${Number(s) - 1}`)
    .replace("linear.", "head.fc.")
    .replace("rbr_conv", "conv_kxk")
    .replace("rbr_scale", "conv_scale")
    .replace("rbr_skip", "identity")
    .replace("se.reduce", "attn.fc1")
    .replace("se.expand", "attn.fc2");

/** `starts` are the positions at which the stages begin, the block before a reduction first. Default those of M0.9 and M1.0. */
export function repvitInTimm(key: string, starts: readonly number[] = [1, 3, 7, 23]): string {
  const inside = (rest: string, down: boolean): string =>
    (down
      ? rest.replace("token_mixer.0.", "spatial_downsample.").replace("token_mixer.2.", "channel_downsample.")
      : rest.replace("token_mixer.0.", "token_mixer.").replace("token_mixer.1.", "se.")
    )
      .replace("channel_mixer.m.0.", down ? "ffn.conv1." : "channel_mixer.conv1.")
      .replace("channel_mixer.m.2.", down ? "ffn.conv2." : "channel_mixer.conv2.");
  const [, index, rest] = /^features\.(\d+)\.(.*)$/.exec(key) ?? [];
  if (index === undefined)
    return key
      .replace("classifier.classifier_dist.", "head.head_dist.")
      .replace("classifier.classifier.", "head.head.")
      .replace(/^classifier\./, "head.");
  if (index === "0") return rest.replace(/^0\./, "stem.conv1.").replace(/^2\./, "stem.conv2.");
  const stage = starts.findLastIndex((start) => start <= Number(index));
  const place = Number(index) - starts[stage];
  if (stage === 0) return `stages.0.blocks.${place}.${inside(rest, false)}`;
  if (place < 2) return `stages.${stage}.downsample.${place ? "" : "pre_block."}${inside(rest, place === 1)}`;
  return `stages.${stage}.blocks.${place - 2}.${inside(rest, false)}`;
}

/** `downs` are the positions of the parts that reduce the map. */
export const fastvitInTimm = (key: string, downs: readonly number[]): string =>
  key
    .replace(/^network\.(\d+)\.(proj|pe|reparam_conv)?/, (_, i: string, part = "") => {
      const stage = `stages.${downs.filter((at) => at <= Number(i)).length}`;
      if (part === "proj") return `${stage}.downsample.proj`;
      return part ? `${stage}.pos_emb.${part === "pe" ? "pos_enc" : part}` : `${stage}.blocks.`;
    })
    .replace("patch_embed", "stem")
    .replace("rbr_conv", "conv_kxk")
    .replace("rbr_scale", "conv_scale")
    .replace("rbr_skip", "identity")
    .replace("conv_exp", "final_conv")
    .replace("lkb_origin", "large_conv")
    .replace("lkb_reparam", "reparam_conv")
    .replace("convffn", "mlp")
    .replace("se.reduce", "se.fc1")
    .replace("se.expand", "se.fc2")
    .replace(/layer_scale(_\d)?$/, "$&.gamma")
    .replace(/^head\./, "head.fc.");

/** The authors' names as MMPretrain has them. */
export const repmlpnetInMMPretrain = (key: string): string =>
  key.startsWith("head.")
    ? key.replace("head.", "head.fc.")
    : `backbone.${key}`
        .replace("conv_embedding.conv", "patch_embed.projection")
        .replace("conv_embedding.bn", "patch_embed.norm")
        .replace("embeds", "downsample_layers")
        .replace("head_norm", "final_norm")
        .replace(/prebn(\d)/, "norm$1")
        .replace(/gp\.fc(\d)/, "gp.conv$1.conv");

/** Names that others give to the keys of ResNet. */
const resnetIn: Readonly<Record<string, (key: string) => string>> = {
  torchvision: (key) =>
    key
      .replace(/^stage0\.conv1\.(conv|bn)/, "$11")
      .replace(/^stage/, "layer")
      .replace("shortcut.conv", "downsample.0")
      .replace("shortcut.bn", "downsample.1")
      .replace(/\.conv(\d)\.bn\./, ".bn$1.")
      .replace(/\.conv(\d)\.conv\./, ".conv$1.")
      .replace("linear", "fc"),
  acnet: (key) => key.replace("stage0.", "").replace(/(\.conv1)\.(?=square|ver|hor|fused)/, "$1.acb."),
  "acnet, stage by stage": (key) =>
    key
      .replace("stage0.", "")
      .replace(/\.0\.shortcut/, ".projection")
      .replace(/^(stage\d)\.(\d)\./, "$1.block$2.")
      .replace(/(\.conv2)\.(?=square|ver|hor|fused)/, "$1.acb.")
      .replace("linear", "fc"),
};

/** A network under the names of others. */
export interface Renaming {
  readonly arch: string;
  readonly naming: string;
  readonly rename: (key: string) => string;
  /** The forms that there are names for. */
  readonly forms: readonly ("train" | "deploy")[];
}

const both = ["train", "deploy"] as const;

export const renamings: readonly Renaming[] = [
  {
    ...{ arch: "CIFAR-ResNet-20", naming: "akamaster", forms: ["train"] as const },
    rename: (key) => key.replace(/conv(\d)\.bn\./, "bn$1.").replace(/(conv\d)\.conv\./, "$1."),
  },
  ...["RepVGG-A0", "RepVGG-B1g2", "RepVGG-D2se"].map((arch) => ({
    ...{ arch, naming: "timm", rename: repvggInTimm, forms: both },
  })),
  ...["MobileOne-s0", "MobileOne-s4"].map((arch) => ({ arch, naming: "timm", rename: mobileoneInTimm, forms: both })),
  { arch: "RepViT-M1.0", naming: "timm", rename: (key) => repvitInTimm(key), forms: both },
  { arch: "RepViT-M1.5", naming: "timm", rename: (key) => repvitInTimm(key, [1, 5, 11, 37]), forms: both },
  ...["FastViT-T8", "FastViT-SA12"].map((arch) => ({
    ...{ arch, naming: "timm", rename: (key: string) => fastvitInTimm(key, [1, 3, 5]), forms: both },
  })),
  { arch: "RepMLPNet-T224", naming: "mmpretrain", rename: repmlpnetInMMPretrain, forms: both },
  ...["ResNet-18-base", "ResNet-50-base"].map((arch) => ({
    ...{ arch, naming: "torchvision", rename: resnetIn.torchvision, forms: both },
  })),
  ...["ResNet-18-base", "ResNet-18-ACB"].map((arch) => ({
    ...{ arch, naming: "acnet", rename: resnetIn.acnet, forms: both },
  })),
  ...["ResNet-50-base", "ResNet-50-ACB"].map((arch) => ({
    ...{ arch, naming: "acnet", rename: resnetIn["acnet, stage by stage"], forms: both },
  })),
];
