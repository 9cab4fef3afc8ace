/** The numbers of a convolution and the batch norm after it; `weight` `[O, …]`, the others `[O]`. */
export interface NormedFilters {
  readonly weight: Float64Array;
  readonly gamma: Float64Array;
  readonly beta: Float64Array;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

/**
 * A convolution and its batch norm that compute what they did with ResRep's compactor `q` `[O, O]` behind them.
 *
 * With s = γ / √(σ² + ε), convolution W and compactor Q, the compactor's output is Q(s ∘ (W x − μ) + β) = u − m + Qβ where
 * u = (Q · s ∘ W) x and m = Q(s ∘ μ). That is a batch norm of a · u with running mean a · m, any running variance v, weight
 * √(v + ε) / a and bias Qβ. For v the sum of squares a² · Q² · (s² σ²) is taken, what the variance is if channels do not
 * correlate; and a gives each filter the norm that it had, so that training on moves it as before.
 */
export function foldNormed(
  { weight, gamma, beta, mean, variance }: NormedFilters,
  q: Float64Array,
  eps: number,
): NormedFilters {
  const size = gamma.length;
  const perFilter = weight.length / size;
  const scale = gamma.map((g, o) => g / Math.sqrt(variance[o] + eps));
  const next = {
    weight: foldFilters(
      weight.map((w, i) => w * scale[Math.floor(i / perFilter)]),
      q,
      size,
    ),
    gamma: new Float64Array(size),
    beta: foldFilters(beta, q, size),
    mean: foldFilters(
      mean.map((m, o) => m * scale[o]),
      q,
      size,
    ),
    variance: foldFilters(
      variance.map((v, o) => v * scale[o] ** 2),
      q.map((v) => v * v),
      size,
    ),
  };
  for (let j = 0; j < size; j++) {
    const norm = (values: Float64Array): number => Math.hypot(...values.subarray(j * perFilter, (j + 1) * perFilter));
    const a = norm(weight) / norm(next.weight);
    const rescale = Number.isFinite(a) && a > 0 ? a : 1;
    for (let i = 0; i < perFilter; i++) next.weight[j * perFilter + i] *= rescale;
    next.mean[j] *= rescale;
    // As the file rounds it, so that the two cancel.
    next.variance[j] = Math.fround(rescale ** 2 * next.variance[j]);
    next.gamma[j] = Math.sqrt(next.variance[j] + eps) / rescale;
  }
  return next;
}

/** Rows `[size, …]` times a compactor `[size, size]`: of a convolution without norm, its filters and its biases. */
export function foldFilters(rows: Float64Array, q: Float64Array, size: number): Float64Array {
  const inner = rows.length / size;
  const made = new Float64Array(rows.length);
  for (let j = 0; j < size; j++)
    for (let o = 0; o < size; o++)
      for (let i = 0; i < inner; i++) made[j * inner + i] += q[j * size + o] * rows[o * inner + i];
  return made;
}
