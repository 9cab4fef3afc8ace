export * from "./dtype.ts";
export * from "./random.ts";
export * from "./tensor.ts";
