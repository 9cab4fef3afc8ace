export { type Device, fromOrt, type Platform, platform, registerPlatform, toOrt } from "./ort.ts";
export { compile, compileModel, Program } from "./program.ts";
export type { CompileOptions, Feeds } from "./session.ts";
export { compileSharedStep } from "./stages.ts";
export {
  type BatchShare,
  compileStep,
  lowerStep,
  type RunningStep,
  type State,
  type StepGraph,
  StepProgram,
  StepState,
} from "./step.ts";
