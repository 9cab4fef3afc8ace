export {
  type ConvertOnnxOptions,
  convertOnnxBytes,
  type OnnxConversion,
} from "./conversion.ts";
export {
  type MergedOnnx,
  type MergeOnnxOptions,
  mergeOnnx,
  type OnnxKept,
  type OnnxMerge,
  type OnnxRule,
  onnxRules,
} from "./merge.ts";
export type { Feeds, OnnxProof, OutputDifference } from "./proof.ts";
export { onnxReport, onnxReportBody } from "./report.ts";
export type { Rewrite, RewriteRule, Sight } from "./rewrite.ts";
export type { LinearRule, Step } from "./step.ts";
