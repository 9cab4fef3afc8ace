/// <reference lib="esnext.disposable" preserve="true" />
/**
 * Structural re-parameterization: train networks with extra branches, merge them exactly, run them on ONNX Runtime.
 *
 * @packageDocumentation
 */
export * from "./blocks/index.ts";
export * from "./checkpoint/index.ts";
export * from "./data/index.ts";
export { type ErrorKind, RepmlpError } from "./errors.ts";
export * from "./export/index.ts";
export * as ops from "./graph/index.ts";
export { grad, type Value } from "./graph/index.ts";
export * from "./inference/index.ts";
export * from "./models/index.ts";
export * as nn from "./nn/index.ts";
export { Module, type Net } from "./nn/index.ts";
export * from "./reparam/index.ts";
export * from "./runtime/index.ts";
export { type SelfCheck, selfCheck } from "./studies/self-check.ts";
export * from "./tasks/index.ts";
export * from "./tensor/index.ts";
export * from "./training/index.ts";
