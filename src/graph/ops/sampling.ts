/** Input pixel of every output pixel for `nearest`, in single precision as PyTorch computes it. */
export function nearestSources(from: number, to: number): number[] {
  const scale = Math.fround(from / to);
  return Array.from({ length: to }, (_, o) => Math.min(Math.floor(Math.fround(o * scale)), from - 1));
}

/** Whether ONNX Runtime, which divides by the inverse scale, rounds to the same pixels; it does but for a few sizes. */
export function runtimeAgrees(from: number, to: number): boolean {
  const inverse = Math.fround(to / from);
  return nearestSources(from, to).every((s, o) => s === Math.min(Math.floor(Math.fround(o / inverse)), from - 1));
}
