/**
 * Whether a tensor of a training checkpoint is the optimizer's: a run keeps its state beside the network's own, as
 * `optimizer.<slot>:<key>`.
 */
export const isOptimizerState = (key: string): boolean => /^optimizer\.\w+:/.test(key);

/** Whether a tensor of a training checkpoint is the range of an integer, which training with fake quantization keeps. */
export const isQuantizationRange = (key: string): boolean => key.startsWith("quantize.");

/** Whether a tensor of a training checkpoint is of AOFP's search, which wraps a network while it prunes it. */
export const isFilterSearch = (key: string): boolean => /^aofp\.\d+\.(base|search|ablated|account|count)$/.test(key);
