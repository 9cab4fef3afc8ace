export { allReduceBfloat16 } from "./bfloat16.ts";
export {
  allReduceMany,
  alone,
  type Communicator,
  gatherJson,
  type Reducible,
  type Reduction,
  shareJson,
  shareOf,
} from "./communicator.ts";
export { type Launch, launchOf, type MpiKind } from "./launcher.ts";
