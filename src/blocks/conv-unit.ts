import type { Net } from "../nn/index.ts";
import { ACB } from "./acb.ts";
import { ConvBn } from "./conv-bn.ts";
import { DBB } from "./dbb.ts";
import { RepVGGConv } from "./repvgg.ts";

/** A square convolution that a unit stands for. */
export interface ConvUnitOptions {
  /** Odd height and width of the kernel. */
  readonly kernelSize: number;
  /** Default 1. */
  readonly stride?: number;
  /** Default 0. */
  readonly padding?: number;
  /** Default 1. */
  readonly dilation?: number;
  /** Default 1. */
  readonly groups?: number;
}

/**
 * Makes what stands in a convolution's place: it and its batch norm, or several such branches, that merge into one
 * convolution with bias. No activation. `[N, C, H, W]` → `[N, O, H', W']` with the sizes of that convolution.
 */
export type ConvFactory = (inChannels: number, outChannels: number, options: ConvUnitOptions) => Net;

/** What a network's convolutions may be made of, by name. */
export const convUnits = {
  plain: (inChannels, outChannels, options) => new ConvBn(inChannels, outChannels, options),
  repvgg: (inChannels, outChannels, options) => new RepVGGConv({ inChannels, outChannels, ...options }),
  acb: (inChannels, outChannels, options) => new ACB({ inChannels, outChannels, ...options }),
  dbb: (inChannels, outChannels, options) => new DBB({ inChannels, outChannels, ...options }),
} satisfies Record<string, ConvFactory>;

export type ConvUnitName = keyof typeof convUnits;

/**
 * The unit by that name for the kernels that gain from more branches: those of 1×1 and from 7×7 on are plain, as in the
 * networks of ACNet (arXiv 1908.03930) and DBB (arXiv 2103.13425).
 */
export const eligibleUnit = (name: ConvUnitName, kernelSize: number): ConvUnitName =>
  kernelSize > 1 && kernelSize < 7 ? name : "plain";

/** Makes units of one kind, and plain ones where {@link eligibleUnit} says so. */
export const convUnit =
  (name: ConvUnitName, units: Readonly<Record<ConvUnitName, ConvFactory>> = convUnits): ConvFactory =>
  (inChannels, outChannels, options) =>
    units[eligibleUnit(name, options.kernelSize)](inChannels, outChannels, options);
