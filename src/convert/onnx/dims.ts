/** Sizes of a value; `undefined` for one that is open. */
export type Dims = readonly (number | undefined)[];

/** An axis counted from the front. */
export const onAxis = (axis: number, rank: number): number => (axis < 0 ? axis + rank : axis);

/** Sizes without the axes that are one, and with such axes. */
export const squeezed = (shape: readonly (number | undefined)[], axes: readonly number[] | undefined) =>
  shape.filter((d, i) => (axes ? !axes.some((a) => onAxis(a, shape.length) === i) : d !== 1));
export function unsqueezed(shape: readonly (number | undefined)[], axes: readonly number[]): (number | undefined)[] {
  const rank = shape.length + axes.length;
  const added = new Set(axes.map((a) => onAxis(a, rank)));
  const rest = [...shape];
  return Array.from({ length: rank }, (_, i) => (added.has(i) ? 1 : rest.shift()));
}
