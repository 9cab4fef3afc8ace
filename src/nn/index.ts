export * from "./coefficient.ts";
export * from "./init.ts";
export * from "./layers.ts";
export * from "./module.ts";
export * from "./parameter.ts";
export * from "./summary.ts";
export * from "./trace-model.ts";
