export { type MergedOnnx, type MergeOnnxOptions, mergeOnnx, type OnnxKept, type OnnxMerge } from "./merge.ts";
export { type LinearRule, linearRules, type Step } from "./rules.ts";
