import type { Reader } from "./context.ts";
import { convReaders } from "./conv.ts";
import { elementwiseReaders } from "./elementwise.ts";
import { linearReaders } from "./linear.ts";
import { normReaders } from "./norm.ts";
import { poolReaders } from "./pool.ts";
import { reduceReaders } from "./reduce.ts";
import { resizeReaders } from "./resize.ts";
import { shapeReaders } from "./shapes.ts";

/** What can be read, by ONNX operator of the standard set. */
export const readers: ReadonlyMap<string, Reader> = new Map(
  Object.entries({
    ...convReaders,
    ...elementwiseReaders,
    ...linearReaders,
    ...normReaders,
    ...poolReaders,
    ...reduceReaders,
    ...resizeReaders,
    ...shapeReaders,
  }),
);
