import { fmt, must } from "../errors.ts";
import { derived, isFloating, type Shape, sizeOf, Tensor, type TensorSource } from "../tensor/index.ts";

/** Metadata entry: JSON of shapes by key. */
const ENTRY = "sparse";

/** What a file may claim: at least one value in so many that they stand for. */
const MOST = 2 ** 16;

/**
 * A state dict whose weights are mostly zero as it is written to a `.safetensors` file: of each tensor that becomes smaller,
 * the values that are not zero, `<key>.values` `[n]`, and their places in row-major order, `<key>.indices` `[n]` int32. The
 * metadata `sparse` has the shapes. {@link openCheckpoint} reads such a file as the whole state dict.
 */
export function sparseEntries(entries: ReadonlyMap<string, TensorSource>): {
  readonly entries: ReadonlyMap<string, TensorSource>;
  readonly metadata: Readonly<Record<string, string>>;
} {
  const made = new Map<string, TensorSource>();
  const shapes: Record<string, Shape> = {};
  for (const [key, source] of entries) {
    const tensor = isFloating(source.dtype) && source.shape.length > 1 ? source.readSync() : undefined;
    const values = tensor?.toFloat64() ?? new Float64Array(0);
    const indices = [...values.keys()].filter((i) => values[i] !== 0);
    // Each value that stays needs a place beside it.
    if (!tensor || !indices.length || 2 * indices.length >= values.length) {
      made.set(key, source);
      continue;
    }
    shapes[key] = tensor.shape;
    made.set(
      `${key}.values`,
      Tensor.of(
        tensor.dtype,
        [indices.length],
        indices.map((i) => values[i]),
      ),
    );
    made.set(`${key}.indices`, Tensor.of("int32", [indices.length], indices));
  }
  return { entries: made, metadata: Object.keys(shapes).length ? { [ENTRY]: JSON.stringify(shapes) } : {} };
}

/**
 * The whole state dict of a file that {@link sparseEntries} has made; any other one as it is.
 *
 * @throws `checkpoint/sparse` for shapes, values or places that do not fit together
 */
export function denseEntries(
  name: string,
  entries: Map<string, TensorSource>,
  metadata: Readonly<Record<string, string>>,
): Map<string, TensorSource> {
  if (metadata[ENTRY] === undefined) return entries;
  const made = new Map<string, TensorSource>();
  const shapes = shapesIn(name, metadata[ENTRY]);
  const parts = new Map(
    shapes.flatMap(([key]) => [`${key}.values`, `${key}.indices`].map((part) => [part, key] as const)),
  );
  for (const [key, source] of entries) if (!parts.has(key)) made.set(key, source);
  for (const [key, shape] of shapes) {
    const [values, indices] = ["values", "indices"].map((what) => entries.get(`${key}.${what}`));
    must(
      values?.shape.length === 1 &&
        indices?.shape.length === 1 &&
        values.shape[0] === indices.shape[0] &&
        indices.dtype === "int32" &&
        isFloating(values.dtype) &&
        values.shape[0] > 0 &&
        sizeOf(shape) <= MOST * values.shape[0],
      "checkpoint/sparse",
      () =>
        `${name}: the sparse tensor ${key} ${fmt(shape)} needs ${key}.values and ${key}.indices (int32) of one length, at least one in ${MOST} of its values. Write the file again.`,
      "file",
    );
    const where = `${name}: ${key}`;
    made.set(
      key,
      derived(values.dtype, shape, [values, indices], (v, i) => whole(where, v, i, shape)),
    );
  }
  return made;
}

function whole(where: string, values: Tensor, indices: Tensor, shape: Shape): Tensor {
  const all = new Float64Array(sizeOf(shape));
  const [from, at] = [values.toFloat64(), indices.toFloat64()];
  for (const [i, place] of at.entries()) {
    must(
      place >= 0 && place < all.length && (i === 0 || place > at[i - 1]),
      "checkpoint/sparse",
      () => `${where}: place ${place} must be below ${all.length} and above the one before. Write the file again.`,
      "file",
    );
    all[place] = from[i];
  }
  return Tensor.of(values.dtype, shape, all);
}

function shapesIn(name: string, text: string): readonly (readonly [string, Shape])[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = undefined;
  }
  const entries = typeof parsed === "object" && parsed !== null ? Object.entries(parsed) : [];
  const isShape = (shape: unknown): shape is Shape =>
    Array.isArray(shape) && shape.length <= 8 && shape.every((d) => Number.isSafeInteger(d) && d > 0);
  must(
    entries.length > 0 && entries.every(([, shape]) => isShape(shape) && Number.isSafeInteger(sizeOf(shape))),
    "checkpoint/sparse",
    () => `${name}: the metadata "sparse" must hold shapes by key. Write the file again.`,
    "file",
  );
  return entries as [string, Shape][];
}
