export { withCompactors } from "../blocks/index.ts";
export {
  Ablation,
  type AofpOptions,
  aofp,
  endHalf,
  type HalfOutcome,
  prunedByAofp,
} from "./aofp.ts";
export type { ChannelRole } from "./channel-rules.ts";
export { byChance, byL1, type ChooseOptions, chooseChannels, type Importance } from "./choose.ts";
export { type Compensated, compensated } from "./compensate.ts";
export * from "./csgd.ts";
export { cutChannels, mergeChannels, withWidths } from "./cut.ts";
export {
  type Channel,
  type ChannelAxis,
  type ChannelDependencies,
  type ChannelGroup,
  channelDependencies,
  type ExpectedNode,
  type FixedChannels,
  groupOf,
} from "./dependencies.ts";
export { foldCompactors } from "./fold-compactors.ts";
export * from "./gsm.ts";
export { keepZeros, ticketOf, zerosOf } from "./keep-zeros.ts";
export * from "./methods.ts";
export * from "./resrep.ts";
