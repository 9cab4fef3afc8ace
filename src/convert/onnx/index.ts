export {
  type MergedOnnx,
  type MergeOnnxOptions,
  mergeOnnx,
  type OnnxKept,
  type OnnxMerge,
  type OnnxRule,
  onnxRules,
} from "./merge.ts";
export type { Rewrite, RewriteRule, Sight } from "./rewrites.ts";
export type { LinearRule, Step } from "./rules.ts";
