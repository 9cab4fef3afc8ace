export type { ChannelRole } from "./channel-rules.ts";
export * from "./choose.ts";
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
export * from "./gsm.ts";
export * from "./resrep.ts";
