export { type ByteSource, blobSource, memorySource } from "./byte-source.ts";
export { Checkpoint, type OpenCheckpointOptions, openCheckpoint } from "./checkpoint.ts";
export type { CheckpointFormat } from "./detect-format.ts";
export type { SaveOptions, TensorEntry } from "./save-task.ts";
export type { ByteSink } from "./sink.ts";
export type { OtherValue } from "./torch/other-values.ts";
export type { StateDictOptions } from "./torch/state-dict.ts";
export { asWeights } from "./weights.ts";
export { checkpointBlob, type SaveFormat, writeCheckpoint } from "./writer.ts";
