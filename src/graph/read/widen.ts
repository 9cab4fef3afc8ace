import { type DType, derived, type TensorSource } from "../../tensor/index.ts";

/** Half-precision types are read as float32, in which they can be trained and run on every device. */
export const widened = (dtype: DType): DType => (dtype === "float16" || dtype === "bfloat16" ? "float32" : dtype);

/** The tensor in another type. */
export const inType = (source: TensorSource, dtype: DType): TensorSource =>
  source.dtype === dtype ? source : derived(dtype, source.shape, [source], (t) => t.cast(dtype));
