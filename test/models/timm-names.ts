/** Names that timm gives to keys, made of the authors': what `Naming.rename` takes back. */

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
