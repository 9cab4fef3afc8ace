/** One of the likeliest classes of a picture. */
export interface RankedClass {
  readonly index: number;
  readonly logit: number;
  /** Softmax over all classes. */
  readonly probability: number;
}

/** The `count` largest logits of one picture, largest first; of equal ones the lower index. */
export function rankClasses(logits: ArrayLike<number>, count: number): RankedClass[] {
  const values = Array.from(logits);
  const max = values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const sum = values.reduce((n, v) => n + Math.exp(v - max), 0);
  return values
    .map((logit, index) => ({ index, logit, probability: Math.exp(logit - max) / sum }))
    .sort((a, b) => b.logit - a.logit || a.index - b.index)
    .slice(0, count);
}
