import { describe, expect, test } from "vitest";
import {
  type Backbone,
  createModel,
  FaceRecognizer,
  FaceResNet,
  PSPNet,
  RepMLPResNet,
  RepVGG,
  ResNet,
} from "../../src/models/index.ts";
import { countMacs, countParameters, type Net } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { relativeError, runTogether, withRandomState } from "../reparam/support.ts";

const partition = { partition: 10, reparamConvKernels: [1, 3, 5, 7], groups: [4, 8] } as const;

/** Built at full size, without values: parameters, those of the deploy form, and its multiply-adds in millions. */
const sizes: readonly [string, () => Net, number, readonly [number, number]][] = [
  [
    // 46.56 M parameters and 350,004 M FLOPs in RepMLP's paper.
    "PSPNet, ResNet-50",
    () => new PSPNet(new RepMLPResNet({ blockType: "base", dilation: [2, 4] }), { numClasses: 19 }),
    ...[48_956_262, [46_562_451, 350_005]],
  ],
  [
    "PSPNet, RepMLP-Res50-g4/8",
    () =>
      new PSPNet(
        new RepMLPResNet({
          ...{ blockType: "bottleneck", ...partition, imageSize: 713, fc1Fc2Reduction: [4, 8], dilation: [1, 4] },
        }),
        { numClasses: 19 },
      ),
    ...[178_335_038, [175_411_307, 342_697]],
  ],
  ["FaceResNet", () => new FaceResNet(), ...[31_380_800, [31_366_400, 999]]],
  ["RepMLP-FaceRes", () => new FaceResNet({ blockType: "bottleneck" }), ...[69_598_144, [68_734_016, 1_112]]],
] as never;

test.for(sizes)("%s has the size that follows from its description", ([name, make, train, deploy]) => {
  const model = make();
  const merged = deployForm(model);
  const edge = name.startsWith("PSPNet") ? 713 : 96;
  const macs = Math.round(countMacs(merged, [1, 3, edge, edge]) / 1e6);
  expect([countParameters(model), [countParameters(merged), macs]]).toEqual([train, deploy]);
});

const narrowRepVGG = { numBlocks: [1, 1, 1, 1], widthMultiplier: [0.125, 0.125, 0.125, 0.125] };
const narrow = { numClasses: 5, numBlocks: [1, 2, 2, 1] as const };
const backbones: Readonly<Record<string, (dilation?: readonly [number, number]) => Backbone>> = {
  ResNet: (dilation) => new ResNet({ ...narrow, widthMultiplier: 1 / 8, block: "bottleneck", dilation }),
  "ResNet of diverse branch blocks": (dilation) =>
    new ResNet({ ...narrow, widthMultiplier: 1 / 8, unit: "dbb", dilation }),
  RepVGG: (dilation) => new RepVGG({ ...narrow, widthMultiplier: [0.125, 0.125, 0.125, 0.125], dilation }),
  RepMLPResNet: (dilation) =>
    new RepMLPResNet({
      ...{ ...narrow, blockType: "bottleneck", channels: [16, 32, 64, 128], stemChannels: 8, imageSize: [89, 121] },
      ...{ partition: [3, 4], groups: 2, bottleneckReduction: [2, 2], reparamConvKernels: [1, 3] },
      ...(dilation && { dilation: [1, dilation[1]] as const }),
    }),
};

describe.for(Object.entries(backbones))("PSPNet on %s", ([name, make]) => {
  const backbone = withRandomState(make([2, 4]), 3).eval();
  const model = withRandomState(new PSPNet(make([2, 4]), { numClasses: 5, dropout: 0 }), 4).eval();
  model.backbone.loadStateDict(backbone.stateDict(), { allow: (key) => key.startsWith("linear.") });
  const shape = [2, 3, 89, 121];
  const deploy = convertToDeploy(model);

  test("gives logits of the picture's size, equal in both forms", async () => {
    const [own, merged] = await runTogether([model, deploy].map((net) => ({ model: net, shape })));
    expect(own.shape).toEqual([2, 5, 89, 121]);
    expect(relativeError(merged, own)).toBeLessThan(2e-5);
  });

  test("merges its backbone to what the backbone alone merges to, to the bit", () => {
    const alone = convertToDeploy(backbone).stateDict();
    const within = deploy.backbone.stateDict();
    expect([...within.keys()]).toEqual([...alone.keys()].filter((key) => !key.startsWith("linear.")));
    for (const [key, t] of within) expect(t.readSync(), key).toEqual(alone.get(key)!.readSync());
  });

  test("leaves the auxiliary head out", () => {
    expect(model.aux).toBeDefined();
    expect(deploy.aux).toBeUndefined();
    expect([...deploy.stateDict().keys()].filter((key) => key.startsWith("aux."))).toEqual([]);
  });

  test("has the classifier's keys, whose values it takes; of RepMLP all but FC1 and FC2 for another number of partitions", () => {
    const classifier = make();
    const dilated = make([2, 4]);
    const { mismatched, missing, unexpected } = dilated.loadStateDict(classifier.stateDict(), {
      allow: (key) => key.includes(".fc1_fc2."),
    });
    expect([missing, unexpected]).toEqual([[], []]);
    expect(mismatched.length > 0).toBe(name === "RepMLPResNet");
    expect(mismatched.every((key) => /^stage3\..*\.fc1_fc2\./.test(key))).toBe(true);
  });
});

test.for([
  ["UNet", { numClasses: 5, channels: [4, 8, 12] }, [2, 3, 37, 50], [2, 5, 37, 50]],
  ["MobileFaceNet", { numClasses: 3, imageSize: [48, 32], embedding: 12 }, [2, 3, 48, 32], [2, 12]],
  ["PSPNet-RepVGG-A0", { numClasses: 4, imageSize: 33, backboneOptions: narrowRepVGG }, [2, 3, 33, 33], [2, 4, 33, 33]],
] as const)("%s by name: both forms agree", async ([name, options, shape, expected]) => {
  const model = withRandomState(createModel(name, options as never)).eval();
  const [own, merged] = await runTogether([model, convertToDeploy(model)].map((net) => ({ model: net, shape })));
  expect(own.shape).toEqual(expected);
  expect(relativeError(merged, own)).toBeLessThan(2e-5);
});

test.for([
  ["ResNet-9", /"ResNet-9" cannot be a backbone\. Take one of .*RepVGG-A0/],
  ["MobileNet-base", /"MobileNet-base" cannot be a backbone/],
] as const)("%s is refused as a backbone, by name", ([backbone, message]) => {
  expect(() => createModel("PSPNet-ResNet-50", { backbone } as never)).toThrow(message);
});

test("options of the backbone are checked as its own", () => {
  const backboneOptions = { widthMultiplier: [1, 1] };
  expect(() => createModel("PSPNet-RepVGG-A0", { backboneOptions } as never)).toThrow(
    /RepVGG-A0: option widthMultiplier must be a list of 4 numbers/,
  );
});

test("a RepMLP cannot be dilated", () => {
  const options = { blockType: "bottleneck", imageSize: 224, dilation: [2, 4] } as const;
  expect(() => new RepMLPResNet(options)).toThrow(/dilation \[1, 4\]/);
});

describe("embeddings of faces", () => {
  const narrowFaces = {
    channels: [16, 16, 32, 32],
    stemChannels: 8,
    embedding: 12,
    imageSize: 48,
    partition: 3,
  } as const;

  test.for(["base", "bottleneck"] as const)(
    "%s: both forms agree, and the identities are left out",
    async (blockType) => {
      const embedder = new FaceResNet({ ...narrowFaces, blockType, numBlocks: [1, 2, 2, 1] });
      const model = withRandomState(new FaceRecognizer(embedder, { identities: 7, features: 12 })).eval();
      const deploy = convertToDeploy(model);
      expect(deploy.identities).toBeUndefined();
      expect([...deploy.stateDict().keys()].every((key) => key.startsWith("embedder."))).toBe(true);
      expect([...deploy.stateDict().keys()]).toContain("embedder.embedding.fc.bias");
      const [own, merged] = await runTogether([model, deploy].map((net) => ({ model: net, shape: [2, 3, 48, 48] })));
      expect(own.shape).toEqual([2, 12]);
      expect(relativeError(merged, own)).toBeLessThan(2e-5);
    },
  );
});
