import type { CompileOptions } from "../runtime/index.ts";

/**
 * Options with which ONNX Runtime's products of uint8 and int8 are exact on every CPU, and slower: without VNNI, x86
 * otherwise saturates in 16-bit sums.
 */
export const exactKernels = (options: CompileOptions = {}): CompileOptions => {
  const extra = (options.session?.extra ?? {}) as { readonly session?: Readonly<Record<string, string>> };
  return {
    ...options,
    session: {
      ...options.session,
      extra: { ...extra, session: { ...extra.session, x64quantprecision: "1" } },
    },
  };
};
