export * from "./conv-bn.ts";
export * from "./conv-unit.ts";
export * from "./mobileone.ts";
export * from "./replknet.ts";
export * from "./repmlp.ts";
export * from "./repvgg.ts";
export * from "./residual.ts";
export * from "./squeeze-excite.ts";
