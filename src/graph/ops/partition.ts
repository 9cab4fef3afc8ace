import { fmt, must } from "../../errors.ts";
import { defineOp, mustRank, type Value } from "../value.ts";
import type { Pair } from "./conv-options.ts";

interface PartitionAttrs {
  /** Height and width of one partition, in pixels. */
  readonly partition: Pair;
}

interface UnpartitionAttrs extends PartitionAttrs {
  readonly size: Pair;
}

const partitionOp = defineOp<PartitionAttrs>({
  name: "partition",
  inputs: ["x"],
  infer: ([x], { partition: [h, w] }) => {
    mustRank("partition", "x", x, 4);
    const [n, c, height, width] = x.shape;
    must(
      height % h === 0 && width % w === 0,
      "partition/size",
      () =>
        `partition: a ${height} x ${width} image does not divide into ${h} x ${w} partitions. Pad it to a multiple.`,
    );
    return { dtype: x.dtype, shape: [(height / h) * (width / w) * n, c, h, w] };
  },
  vjp: ({ inputs: [x], dy, attrs: { partition } }) => [unpartition(dy, partition, [x.shape[2], x.shape[3]])],
  lower: (lowering, { inputs: [x] }, { partition: [h, w] }) => {
    const { emit } = lowering;
    const [n, c, height, width] = x.shape;
    const [hp, wp] = [height / h, width / w];
    const layout = lowering.layoutOf(x);
    const handle = lowering.read(x, layout);
    if (layout === "batchLast") {
      const cut = emit.transpose(emit.reshape(handle, [c, hp, h, wp, w, n]), [0, 2, 4, 1, 3, 5]);
      return { handle: emit.reshape(cut, [c, h, w, hp * wp * n]), layout };
    }
    const cut = emit.transpose(emit.reshape(handle, [n, c, hp, h, wp, w]), [2, 4, 0, 1, 3, 5]);
    return { handle: emit.reshape(cut, [hp * wp * n, c, h, w]), layout };
  },
});

const unpartitionOp = defineOp<UnpartitionAttrs>({
  name: "unpartition",
  inputs: ["x"],
  infer: ([x], { partition: [h, w], size: [height, width] }) => {
    mustRank("unpartition", "x", x, 4);
    const [b, c] = x.shape;
    const perImage = (height / h) * (width / w);
    must(
      x.shape[2] === h && x.shape[3] === w && height % h === 0 && width % w === 0 && b % perImage === 0,
      "unpartition/size",
      () => `unpartition: ${fmt(x.shape)} does not hold ${h} x ${w} partitions of whole ${height} x ${width} images`,
    );
    return { dtype: x.dtype, shape: [b / perImage, c, height, width] };
  },
  vjp: ({ dy, attrs: { partition } }) => [partitionImage(dy, partition)],
  lower: (lowering, { inputs: [x], outputs: [y] }, { partition: [h, w], size: [height, width] }) => {
    const { emit } = lowering;
    const [n, c] = y.shape;
    const [hp, wp] = [height / h, width / w];
    const layout = lowering.layoutOf(x);
    const handle = lowering.read(x, layout);
    if (layout === "batchLast") {
      const joined = emit.transpose(emit.reshape(handle, [c, h, w, hp, wp, n]), [0, 3, 1, 4, 2, 5]);
      return { handle: emit.reshape(joined, [c, height, width, n]), layout };
    }
    const joined = emit.transpose(emit.reshape(handle, [hp, wp, n, c, h, w]), [2, 3, 0, 4, 1, 5]);
    return { handle: emit.reshape(joined, y.shape), layout };
  },
});

/**
 * Cuts images into partitions: `[N, C, H, W]` → `[hp·wp·N, C, h, w]`, position outermost and image innermost, which in
 * batch-last order copies runs of N values.
 */
export const partitionImage = (x: Value, partition: Pair): Value => partitionOp([x], { partition });

/** Puts partitions together again; the inverse of {@link partitionImage}. */
export const unpartition = (x: Value, partition: Pair, size: Pair): Value => unpartitionOp([x], { partition, size });
