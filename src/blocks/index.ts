export * from "./conv-bn.ts";
export * from "./repmlp.ts";
export * from "./repvgg.ts";
export * from "./residual.ts";
export * from "./squeeze-excite.ts";
