import { allReduceBfloat16, allReduceMany, gatherJson, launchOf, shareJson } from "../../src/distributed/index.ts";
import { openMpi } from "../../src/distributed/node/index.ts";

/* What every rank of mpi.test.ts runs: calls everything once and prints what came of it. */

const group = await openMpi(launchOf(process.env)!);
const { rank, size } = group;
const own = (length: number, step = 1): number[] => Array.from({ length }, (_, i) => rank + 1 + i * step);
const floats = new Float32Array(own(3, 0.5));
await group.allReduce(floats);
const doubles = new Float64Array(own(2, 1e-12));
await group.allReduce(doubles);
const [most, least] = [new Float64Array([rank]), new Float32Array([rank + 3])];
await group.allReduce(most, "max");
await group.allReduce(least, "min");
const bytes = new Uint8Array(own(5));
await group.broadcast(bytes, size - 1);
// A view in the middle of a buffer, as optimizers' sums may be.
const view = new Float32Array(8).fill(100).subarray(2, 5);
await group.allReduce(view);
const gathered = await group.allGather(new Uint8Array(rank).fill(rank));
const values = await gatherJson(group, { rank, bad: rank === 1 ? Number.NaN : 1, text: "é".repeat(rank) });
const shared = await shareJson(group, rank === 0 ? { list: [1, null, "two"] } : undefined);
const nothing = await shareJson(group, undefined);
const many = Array.from({ length: 7 }, (_, i) => new Float32Array(3 * i).fill(i + rank));
await allReduceMany(group, many, undefined, 40);
const rounded = Float32Array.from({ length: 7 }, (_, i) => (rank + 1) * (1 + i / 64));
await allReduceBfloat16(group, rounded);
// Two at once come in turn.
const [a, b] = [new Float32Array([1]), new Float32Array([2])];
await Promise.all([group.allReduce(a), group.allReduce(b), group.barrier()]);
const result = {
  ...{ rank, size, floats: [...floats], doubles: [...doubles], most: most[0], least: least[0], bytes: [...bytes] },
  ...{ view: [...new Float32Array(view.buffer)], gathered: gathered.map((part) => [...part]) },
  ...{ values: values.map((v) => ({ ...v, bad: String(v.bad) })), shared, nothing: String(nothing) },
  ...{ many: many.map((array) => [...array]), turns: [a[0], b[0]], rounded: [...rounded] },
};
await group.close();
console.log(JSON.stringify(result));
