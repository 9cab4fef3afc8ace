import { type DType, derived, type TensorSource } from "../../tensor/index.ts";

/** Half-precision types are read as float32, in which they can be trained and run on every device. */
export const widened = (dtype: DType): DType => (dtype === "float16" || dtype === "bfloat16" ? "float32" : dtype);

/** The tensor in its {@link widened} type. */
export const widenedSource = (source: TensorSource): TensorSource =>
  widened(source.dtype) === source.dtype
    ? source
    : derived(widened(source.dtype), source.shape, [source], (t) => t.cast(widened(source.dtype)));
