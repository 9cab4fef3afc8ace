/**
 * How a value lies in memory. `natural` is the logical order ([N, C, H, W]); `batchLast` moves axis 0 to the end
 * ([C, H, W, N]), which turns 1×1 convolutions into plain matrix products and partitions into long copies.
 */
export type Layout = "natural" | "batchLast";

/** Permutation from the natural order to batch-last order. */
export const toBatchLast = (rank: number): number[] => [...Array.from({ length: rank - 1 }, (_, i) => i + 1), 0];
/** Permutation from batch-last order to the natural one. */
export const toNatural = (rank: number): number[] => [rank - 1, ...Array.from({ length: rank - 1 }, (_, i) => i)];

/** Physical axis of a logical axis. */
export const physicalAxis = (axis: number, rank: number, layout: Layout): number =>
  layout === "natural" ? axis : (axis + rank - 1) % rank;
