export { openTestData, type TestData, type TestDataOptions } from "./folder-node.ts";
export type { TestHeader, TestOptions } from "./open-test-node.ts";
export { type FormsCheck, runCheck } from "./run-check-node.ts";
export { type RunTestOptions, runTest } from "./run-test-node.ts";
