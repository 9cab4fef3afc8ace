import { expect, test } from "vitest";
import { RepMLP, withFc3BatchNorm } from "../../src/blocks/index.ts";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";

const options = { inChannels: 4, height: 8, width: 12, partition: 4, reparamConvKernels: [1, 3], groups: 2 };
const merged = convertToDeploy(withRandomState(new RepMLP(options), 1).eval());
const on = { inputShape: [4, 8, 12], samples: 4, tolerance: 1e-5 };

test("the inserted batch norm changes nothing until it is trained", async () => {
  const tunable = withFc3BatchNorm(merged).eval();
  expect([...tunable.stateDict().keys()].filter((key) => key.startsWith("fc3"))).toEqual([
    "fc3.weight",
    "fc3.bias",
    "fc3_bn.weight",
    "fc3_bn.bias",
    "fc3_bn.running_mean",
    "fc3_bn.running_var",
    "fc3_bn.num_batches_tracked",
  ]);
  expect((await verifyEquivalence(merged, tunable, on)).maxRel).toBeLessThan(1e-6);
  expect(merged.fc3Bn).toBeUndefined();
});

test("merged again, a trained one is gone and the output the same", async () => {
  const trained = withRandomState(withFc3BatchNorm(merged), 2).eval();
  const again = convertToDeploy(trained);
  expect([...again.stateDict().keys()]).toEqual([...merged.stateDict().keys()]);
  expect((await verifyEquivalence(trained, again, on)).maxRel).toBeLessThan(1e-5);
});

test("a network with nothing merged is refused", () => {
  expect(() => withFc3BatchNorm(new RepMLP(options))).toThrow("has no merged RepMLP");
});
