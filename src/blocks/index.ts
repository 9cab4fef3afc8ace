export * from "./conv-bn.ts";
export * from "./repmlp.ts";
export * from "./residual.ts";
