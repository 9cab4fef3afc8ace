export { type Device, fromOrt, type Platform, platform, registerPlatform, toOrt } from "./ort.ts";
export {
  type CompileOptions,
  compile,
  compileModel,
  compileStep,
  type Feeds,
  lowerStep,
  Program,
  type State,
  type StepGraph,
  StepProgram,
  StepState,
} from "./program.ts";
