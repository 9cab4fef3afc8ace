export {
  type Affine,
  type BiasedMap,
  identityWithNorm,
  inSequence,
  type KernelAlgebra,
  type LinearMap,
  mapOf,
  type Norm,
  normAfter,
  normBefore,
  parallel,
} from "./algebra.ts";
export * from "./contract.ts";
export * from "./convert.ts";
export { HostAlgebra, HostTensor, hostTensor } from "./host.ts";
export * from "./in-graph.ts";
