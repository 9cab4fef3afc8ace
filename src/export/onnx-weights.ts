import type { OnnxModel } from "../onnx/index.ts";
import { derived, sizeOf, Tensor, type TensorSource, type TypedArray } from "../tensor/index.ts";

/** How the export names rows of a parameter that it writes in pieces: `fc3.weight[0:784]`, and a number to tell twins. */
const rowsName = /^(.+)\[(\d+):(\d+)\](?:_\d+)?$/;

interface Rows {
  readonly start: number;
  readonly end: number;
  readonly source: TensorSource;
}

/**
 * The weights of an ONNX file as a checkpoint: its initializers by name, and parameters that `exportOnnx` wrote in pieces
 * (a grouped FC3) put together again, under the parameter's name with the shape `[rows, columns]`. Nothing is read until
 * it is asked for. PyTorch's exporter, too, names initializers as the state dict does, unless it folds them.
 *
 * @param shapes  shapes by key, e.g. of `model.state()`; a tensor of as many values in the same order takes that shape,
 *   as a fully connected weight `[O, I]` is stored as a 1×1 convolution's `[O, I, 1, 1]`
 * @example
 * const network = convertToDeploy(createModel("RepMLP-Res50-light-224").eval(), { copy: false });
 * const shapes = new Map([...network.state()].map(([key, { shape }]) => [key, shape]));
 * network.loadStateDict(onnxWeights(await openOnnx("light.onnx"), shapes));
 */
export function onnxWeights(
  { initializers }: Pick<OnnxModel, "initializers">,
  shapes?: ReadonlyMap<string, readonly number[]>,
): Map<string, TensorSource> {
  const found = new Map<string, TensorSource>();
  const pieces = new Map<string, Rows[]>();
  for (const [name, source] of initializers) {
    const [, key, start, end] = rowsName.exec(name) ?? [];
    if (key === undefined || initializers.has(key)) found.set(name, source);
    else pieces.set(key, [...(pieces.get(key) ?? []), { start: Number(start), end: Number(end), source }]);
  }
  for (const [key, rows] of pieces) {
    const whole = joined(rows);
    if (whole) found.set(key, whole);
  }
  if (!shapes) return found;
  return new Map(
    [...shapes].flatMap(([key, shape]) => {
      const source = found.get(key);
      return source ? [[key, reshaped(source, shape)] as const] : [];
    }),
  );
}

/** All rows in order; `undefined` where some are missing. */
function joined(pieces: readonly Rows[]): TensorSource | undefined {
  const rows = [...new Map(pieces.map((piece) => [piece.start, piece])).values()].sort((a, b) => a.start - b.start);
  const { dtype, shape } = rows[0].source;
  const columns = sizeOf(shape) / (rows[0].end - rows[0].start);
  const gapless = rows.every(
    ({ start, end, source }, i) =>
      start === (i === 0 ? 0 : rows[i - 1].end) &&
      sizeOf(source.shape) === (end - start) * columns &&
      source.dtype === dtype,
  );
  if (!gapless) return undefined;
  const whole = [rows[rows.length - 1].end, columns];
  return derived(
    dtype,
    whole,
    rows.map(({ source }) => source),
    (...parts) => {
      const out = Tensor.zeros(dtype, whole);
      let at = 0;
      for (const { data } of parts) {
        (out.data as { set(values: TypedArray, at: number): void }).set(data, at);
        at += data.length;
      }
      return out;
    },
  );
}

const reshaped = (source: TensorSource, shape: readonly number[]): TensorSource =>
  sizeOf(shape) === sizeOf(source.shape) && `${shape}` !== `${source.shape}`
    ? derived(source.dtype, shape, [source], ({ dtype, data }) => new Tensor(dtype, shape, data))
    : source;
