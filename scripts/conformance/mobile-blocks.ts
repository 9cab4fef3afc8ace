import {
  RepGhostBottleneck,
  RepGhostModule,
  RepVGGBlock,
  SeriesActivation,
  VanillaBlock,
  type YoloActivation,
  YoloQARepVGGBlock,
  YoloRepConv,
  YoloRepVGGDW,
  YoloV7RepConv,
} from "../../src/blocks/index.ts";
import { must } from "../../src/errors.ts";
import { VanillaNet } from "../../src/models/index.ts";
import type { Net } from "../../src/nn/index.ts";

type Args = Readonly<Record<string, never>>;
type Build = (args: Args) => Net;

/** The constructor that belongs to the class that a case names. */
const byClass =
  (classes: Readonly<Record<string, Build>>): Build =>
  (a) => {
    const build = classes[a.class as string];
    must(build, "conformance/class", () => `the class ${a.class} is not known here`);
    return build(a);
  };

/** `true` is what a class has by default. */
const activationOf = (act: boolean | undefined, usual: YoloActivation): YoloActivation =>
  act === false ? "none" : usual;

const qarepvgg =
  (average: boolean): Build =>
  (a) =>
    new YoloQARepVGGBlock({
      ...{ inChannels: a.in_channels, outChannels: a.out_channels, kernelSize: a.kernel_size, stride: a.stride },
      ...{ groups: a.groups, average, eps: a.bn_eps },
    });

/** Blocks of small networks and of detectors. */
export const mobileBuilders: Readonly<Record<string, Build>> = {
  repghost_module: byClass({
    RepGhostModule: (a) =>
      new RepGhostModule({
        ...{ inChannels: a.inp, outChannels: a.oup, kernelSize: a.kernel_size, dwSize: a.dw_size, stride: a.stride },
        ...{ useRelu: a.relu, reparamBn: a.reparam_bn, reparamIdentity: a.reparam_identity },
      }),
    RepGhostBottleneck: (a) => {
      const reparam = a.reparam ?? true;
      return new RepGhostBottleneck({
        ...{ inChannels: a.in_chs, midChannels: a.mid_chs, outChannels: a.out_chs, stride: a.stride },
        ...{ dwKernelSize: a.dw_kernel_size, seRatio: a.se_ratio ?? 0, shortcut: a.shortcut },
        ...{ reparamBn: reparam && (a.reparam_bn ?? true), reparamIdentity: reparam && (a.reparam_identity ?? false) },
      });
    },
  }),
  vanillanet_block: byClass({
    activation: (a) => new SeriesActivation({ channels: a.dim, actNum: a.act_num }),
    Block: (a) =>
      new VanillaBlock({
        ...{ inChannels: a.dim, outChannels: a.dim_out, actNum: a.act_num, stride: a.stride },
        adaptivePool: a.ada_pool ?? 0,
      }),
  }),
  vanillanet_net: byClass({
    VanillaNet: (a) =>
      new VanillaNet({
        ...{ inChannels: a.in_chans, numClasses: a.num_classes, dims: a.dims, strides: a.strides, actNum: a.act_num },
        ...{ dropRate: a.drop_rate, adaptivePool: a.ada_pool ?? undefined },
      }),
  }),
  repconv: byClass({
    "YOLOv7 RepConv": (a) =>
      new YoloV7RepConv({
        ...{ inChannels: a.c1, outChannels: a.c2, kernelSize: a.k, stride: a.s, padding: a.p, groups: a.g },
        ...{ activation: activationOf(a.act, "silu"), eps: a.bn_eps },
      }),
    "YOLOv6 RepVGGBlock": (a) =>
      new RepVGGBlock({
        ...{ inChannels: a.in_channels, outChannels: a.out_channels, kernelSize: a.kernel_size, stride: a.stride },
        ...{ padding: a.padding, groups: a.groups, norm: { eps: a.bn_eps } },
      }),
    "YOLOv6 QARepVGGBlock": qarepvgg(false),
    "YOLOv6 QARepVGGBlockV2": qarepvgg(true),
    "YOLOv10 RepVGGDW": (a) => new YoloRepVGGDW({ channels: a.ed, eps: a.bn_eps }),
    "YOLOv10 RepConv": (a) =>
      new YoloRepConv({
        ...{ inChannels: a.c1, outChannels: a.c2, kernelSize: a.k, stride: a.s, groups: a.g, identity: a.bn },
        ...{ activation: activationOf(a.act, "silu"), eps: a.bn_eps },
      }),
  }),
};
