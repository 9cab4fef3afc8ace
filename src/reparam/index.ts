export * from "./algebra.ts";
export * from "./contract.ts";
export * from "./convert.ts";
export { type RowMap, scaledColumns, scaledRows } from "./rows.ts";
