import { expect } from "vitest";
import type { Net } from "../../src/nn/index.ts";
import { Predictor } from "../../src/node.ts";
import type { Channel, ChannelDependencies } from "../../src/prune/index.ts";
import { rng, Tensor } from "../../src/tensor/index.ts";
import { isStatistic } from "./random-networks.ts";

export const shape = [2, 3, 8, 8] as const;
const pictures = ((): Tensor => {
  const random = rng(5, "pictures");
  return Tensor.float32(
    shape,
    Float64Array.from({ length: 384 }, () => random.normal()),
  );
})();

export async function outputOf(net: Net, x = pictures): Promise<Float64Array> {
  const predictor = await Predictor.create(net, { inputShape: x.shape.slice(1), batchSize: x.shape[0] });
  const y = (await predictor.run(x)).toFloat64();
  await predictor.dispose();
  return y;
}

export async function expectEqual(a: Net, b: Net, x?: Tensor): Promise<void> {
  const [found, expected] = [await outputOf(a, x), await outputOf(b, x)];
  const scale = expected.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  expect(scale).toBeGreaterThan(0);
  expect(found.length).toBe(expected.length);
  for (const [i, v] of expected.entries()) expect(Math.abs(found[i] - v) / scale).toBeLessThan(2e-5);
}

/** A random part of each group, never all of it. */
export function randomCut({ groups }: ChannelDependencies, seed: number): Channel[] {
  const random = rng(seed, "cut");
  return groups.flatMap(({ channels }) => channels.filter((_, i) => i > 0 && random.below(2) === 1));
}

/** Sets everything that makes or carries the channels; statistics stay what they are. */
export function setChannels(net: Net, cut: Iterable<readonly [Channel, Channel | undefined]>): void {
  const parameters = new Map(net.state());
  for (const [channel, from] of cut)
    for (const [a, { key, axis, role }] of channel.group.axes.entries()) {
      const p = parameters.get(key)!;
      if (role === "takes" || (isStatistic(p) && !from)) continue;
      const inner = p.shape.slice(axis + 1).reduce((n, d) => n * d, 1);
      const size = p.shape[axis];
      const positions = new Map(channel.positions[a].map((at, i) => [at, from?.positions[a][i]]));
      const before = p.data.toFloat64();
      p.set(
        p.data.map((v, i) => {
          const at = Math.floor(i / inner) % size;
          if (!positions.has(at)) return v;
          const source = positions.get(at);
          return source === undefined ? 0 : before[i + (source - at) * inner];
        }),
      );
    }
}
