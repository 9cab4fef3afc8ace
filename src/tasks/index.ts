export * from "./classification.ts";
export * from "./evaluate.ts";
export type * from "./task.ts";
