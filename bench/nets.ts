import {
  convertToDeploy,
  createModel,
  Module,
  modelInfo,
  type Net,
  nn,
  ops,
  RepMLP,
  type Value,
} from "../src/node.ts";
import { formulaTensor } from "../scripts/conformance/fullsize.ts";

/** One RepMLP block as in the RepMLP-ResNets' light form, with the least around it that makes it trainable. */
class BlockNet extends Module {
  readonly mix: RepMLP;
  readonly head: nn.Linear;

  constructor(channels: number, size: number) {
    super();
    const partition = { height: size, width: size, partition: 7 };
    this.mix = new RepMLP({ inChannels: channels, ...partition, reparamConvKernels: [1, 3, 5], groups: 4 });
    this.head = new nn.Linear(channels, 10);
  }

  forward(x: Value): Value {
    return this.head.forward(ops.globalAvgPool(ops.relu(this.mix.forward(x))));
  }
}

/**
 * A network by its name in the registry, or one RepMLP block (`block:64` has 64 channels on 14 × 14 maps, `block:64x28`
 * on 28 × 28), with values that cost nothing to make, and the shape of one input.
 */
export function benchNet(name: string, form: string): { readonly net: Net; readonly inputShape: readonly number[] } {
  const block = /^block:(\d+)(?:x(\d+))?$/.exec(name);
  const [channels, size] = [Number(block?.[1]), Number(block?.[2] ?? 14)];
  const net: Net = block ? new BlockNet(channels, size) : createModel(name);
  for (const [key, p] of net.state()) p.set(formulaTensor(key, p.shape));
  const inputShape = block ? [channels, size, size] : modelInfo(name).preprocessing({}).inputSize;
  return { net: form === "deploy" ? convertToDeploy(net.eval()) : net, inputShape };
}
