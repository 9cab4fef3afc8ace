import { describe, expect, test } from "vitest";
import { RepmlpError } from "../../src/errors.ts";
import { input } from "../../src/graph/index.ts";
import { createModel, listModels, modelInfo, RepMLPResNet } from "../../src/models/index.ts";
import { countMacs, countParameters, type Net, traceModel } from "../../src/nn/index.ts";
import { deployForm } from "../../src/reparam/index.ts";

const refusal = (build: () => unknown): string => {
  try {
    build();
  } catch (error) {
    expect(error).toBeInstanceOf(RepmlpError);
    return (error as Error).message;
  }
  throw new Error("nothing was thrown");
};

describe("parameters and multiply-adds (spec section 4.1, computed with the original)", () => {
  const bottleneck = "RepMLP-Res50-bottleneck-224";
  const table: [string, () => Net, number, [number, number, number, number]][] = [
    ["light-224", () => createModel("RepMLP-Res50-light-224"), 224, [87_038_248, 86_142_440, 3.302, 3.077]],
    ["bottleneck-224", () => createModel(bottleneck), 224, [41_071_144, 40_871_528, 3.95, 3.891]],
    ["ResNet-50", () => createModel("ResNet-50-base-224"), 224, [25_557_032, 25_530_472, 4.089, 4.089]],
    [
      "light, 8 groups",
      () => createModel("RepMLP-Res50-light-224", { groups: 8 }),
      224,
      [58_351_912, 57_868_264, 3.032, 2.92],
    ],
    ["bottleneck, 4 groups", () => createModel(bottleneck, { groups: 4 }), 224, [51_049_000, 50_706_024, 4.094, 3.974]],
    ["320, g8/8", () => createModel("RepMLP-Res50-bottleneck-320-g8/8"), 320, [72_450_600, 72_023_144, 8.401, 8.108]],
    ["320, g8/16", () => createModel("RepMLP-Res50-bottleneck-320-g8/16"), 320, [59_543_080, 59_223_144, 8.307, 8.057]],
    ["320, g4/8", () => createModel("RepMLP-Res50-bottleneck-320-g4/8"), 320, [87_939_624, 87_383_144, 8.853, 8.354]],
    ["ResNet-50 at 320", () => createModel("base", { imageSize: 320 }), 320, [25_557_032, 25_530_472, 8.343, 8.343]],
  ];
  // Nothing is initialized: counting needs shapes only.
  test.for(table)("%s", ([, build, size, [train, deploy, trainGmacs, deployGmacs]]) => {
    const model = build();
    const merged = deployForm(model);
    const gmacs = (net: Net): number => Math.round(countMacs(net, [1, 3, size, size]) / 1e6) / 1e3;
    expect([countParameters(model), countParameters(merged), gmacs(model), gmacs(merged)]).toEqual([
      train,
      deploy,
      trainGmacs,
      deployGmacs,
    ]);
    expect([...model.state()].some(([, p]) => p.isSet)).toBe(false);
  });
});

describe("names", () => {
  test("all of them, sorted", () => {
    const all = listModels();
    expect(all).toEqual([...all].sort());
    expect(all).toEqual(
      expect.arrayContaining([
        "RepMLP-Mixer-28",
        "RepMLP-Res50-bottleneck-224",
        "RepMLP-Res50-bottleneck-320-g4/8",
        "RepMLP-Res50-bottleneck-320-g8/16",
        "RepMLP-Res50-bottleneck-320-g8/8",
        "RepMLP-Res50-light-224",
        "ResNet-50-base-224",
      ]),
    );
  });

  test.for([
    ["*light*", ["RepMLP-Res50-light-224"]],
    ["*320-g8/??", ["RepMLP-Res50-bottleneck-320-g8/16"]],
    ["RESNET-50-BASE-*", ["ResNet-50-base-224"]],
    ["light", []],
    ["*..*", []],
  ] as const)("as a glob: %s", ([glob, expected]) => {
    expect(listModels(glob)).toEqual(expected);
  });

  test.for([
    ["RepMLP-Res50-bottleneck-320", "RepMLP-Res50-bottleneck-320-g8/8"],
    ["repmlp_res50_light_224", "RepMLP-Res50-light-224"],
    ["REPMLP-RES50-LIGHT-224", "RepMLP-Res50-light-224"],
    ["resnet50", "ResNet-50-base-224"],
  ])("%s is %s", ([alias, name]) => {
    expect(modelInfo(alias).name).toBe(name);
  });

  test.for([
    ["RepMLP-Res50-lite-224", "RepMLP-Res50-light-224, RepMLP-Res50-bottleneck-224, "],
    ["light", "RepMLP-Res50-light-224?"],
    ["resnet-50", "ResNet-50-"],
    ["bottleneck-320", "RepMLP-Res50-bottleneck-320-g4/8, "],
  ])("one that is not there gives those that are near: %s", ([name, nearest]) => {
    expect(refusal(() => createModel(name))).toContain(`models: there is no "${name}". Did you mean ${nearest}`);
  });

  test.for(listModels())("%s can be built, and its picture size runs", (name) => {
    const { imageSize, channels, preprocessing, task } = modelInfo(name);
    expect(preprocessing({}).inputSize).toEqual([channels, imageSize, imageSize]);
    const model = createModel(name, { numClasses: 7 }).eval();
    const { shape } = traceModel(model, [2, channels, imageSize, imageSize]).output;
    // Of faces a vector, whose length does not follow from the number of people; of masks a class for each pixel.
    if (task === "faces") expect(shape).toEqual([2, name === "MobileFaceNet" ? 128 : 512]);
    else expect(shape).toEqual([2, 7, ...(task === "segmentation" ? [imageSize, imageSize] : [])]);
  });

  test("preprocessing is ImageNet's: short edge 256 for 224, else straight to the size", () => {
    const { preprocessing } = modelInfo("RepMLP-Res50-light-224");
    expect(preprocessing({})).toMatchObject({ resize: 256, inputSize: [3, 224, 224], cropMode: "center" });
    expect(preprocessing({ imageSize: 192 })).toMatchObject({ resize: 192, inputSize: [3, 192, 192] });
    expect(modelInfo("RepMLP-Res50-bottleneck-320").preprocessing({}).resize).toBe(320);
  });
});

describe("options", () => {
  test("undefined stands for the model's own", () => {
    const model = createModel("RepMLP-Res50-bottleneck-320", { imageSize: undefined, numClasses: undefined });
    expect((model as RepMLPResNet).imageSize).toEqual([320, 320]);
  });

  test("bad ones are refused", () => {
    const build = (options: object) => () => createModel("RepMLP-Res50-light-224", { ...options });
    const refusals = [
      build({ groupes: 4 }),
      build({ blockType: "heavy" }),
      build({ numBlocks: [3, 4, 6] }),
      build({ channels: [256, 512, 1024, 2050] }),
      build({ groups: 3 }),
      build({ imageSize: 96 }),
      build({ numClasses: 0 }),
      () => createModel("RepMLP-Mixer-28", { blockType: "light" }),
    ].map(refusal);
    expect(refusals).toMatchInlineSnapshot(`
      [
        "models: RepMLP-Res50-light-224 has no option "groupes". Did you mean groups? It has blockType, imageSize, numClasses, partition, reparamConvKernels, groups, fc1Fc2Reduction, numBlocks, channels, stemChannels, bottleneckReduction.",
        "models: RepMLP-Res50-light-224: option blockType must be "light" or "bottleneck" or "base", got "heavy".",
        "models: RepMLP-Res50-light-224: option numBlocks must be a list of 4 numbers, got [3,4,6].",
        "conv2d: outChannels must be a positive integer, got 512.5",
        "repmlp: groups must divide inChannels and outChannels; 3 does not divide 64 and 64",
        "repmlp: a 7 x 7 partition is larger than the 6 x 6 feature map. Use a smaller partition, or larger pictures.",
        "models: RepMLP-Res50-light-224: option numClasses must be a whole number from 1, got 0.",
        "models: RepMLP-Mixer-28 has no option "blockType". Did you mean groups? It has numClasses, inChannels, imageSize, channels, partition, reparamConvKernels, groups.",
      ]
    `);
  });
});

describe("values of options are checked before anything is built", () => {
  const wrong: readonly [name: string, option: string, value: unknown, message: RegExp][] = [
    ["RepMLP-Res50-light-224", "imageSize", "big", /option imageSize must be one whole number, or two .* got "big"\.$/],
    ["RepMLP-Res50-light-224", "imageSize", [224, 0], /option imageSize\[1\] must be a whole number from 1, got 0/],
    [
      "RepMLP-Res50-light-224",
      "reparamConvKernels",
      [1, 4],
      /option reparamConvKernels\[1\] must be an odd number, got 4/,
    ],
    [
      "RepMLP-Res50-light-224",
      "numBlocks",
      [3, 4, 6, 1e12],
      /option numBlocks\[3\] must be at most 1048576, got 1000000000000/,
    ],
    ["RepMLP-CIFAR10-pure-MLP", "channels", { 0: 1 }, /option channels must be a list of 3 numbers, got \{"0":1\}/],
    ["RepMLP-CIFAR10-pure-MLP", "globalPerceptron", "no", /option globalPerceptron must be true or false, got "no"/],
    ["RepMLP-CIFAR10-pure-MLP", "mixer", 3, /option mixer must be "repmlp" or .*"conv3", got 3/],
    ["RepMLP-Mixer-28", "inChannels", Number.NaN, /option inChannels must be a whole number from 1, got NaN/],
    ["RepMLP-Mixer-28", "groups", [4, 8, 8.5], /option groups\[2\] must be a whole number from 1, got 8\.5/],
  ];
  test.for(wrong)("%s: %s %j", ([name, option, value, message]) => {
    expect(refusal(() => createModel(name, { [option]: value }))).toMatch(message);
    expect(refusal(() => modelInfo(name).preprocessing({ [option]: value }))).toMatch(message);
  });

  test("preprocessing follows the options: size, both sides, channels", () => {
    const info = modelInfo("RepMLP-Mixer-28");
    for (const inChannels of [1, 2, 3]) {
      const { inputSize, mean, std } = info.preprocessing({ inChannels, imageSize: 14 });
      expect(inputSize).toEqual([inChannels, 14, 14]);
      expect([mean.length, std.length]).toEqual([inChannels, inChannels]);
      const model = createModel("RepMLP-Mixer-28", { inChannels });
      expect(traceModel(model.eval(), [1, ...info.preprocessing({ inChannels }).inputSize]).output.shape).toEqual([
        1, 10,
      ]);
    }
    const oblong = modelInfo("RepMLP-Res50-light-224").preprocessing({ imageSize: [224, 448] } as never);
    expect(oblong).toMatchObject({ inputSize: [3, 224, 448], resize: [224, 448] });
  });
});

describe("RepMLPResNet", () => {
  const small = { blockType: "light", stemChannels: 8, channels: [16, 32, 64, 128], numBlocks: [1, 2, 2, 1] } as const;

  test("gives the four stages' outputs as a backbone", () => {
    const model = new RepMLPResNet({ ...small, imageSize: [64, 96], partition: 2, groups: 2 }).eval();
    expect(model.features(input("x", [2, 3, 64, 96])).map((v) => v.shape)).toEqual([
      [2, 16, 16, 24],
      [2, 32, 8, 12],
      [2, 64, 4, 6],
      [2, 128, 2, 3],
    ]);
  });

  test.for([200, 225, [130, 97]] as const)(
    "takes pictures whose maps are not multiples of the partition: %s",
    (size) => {
      const model = new RepMLPResNet({ ...small, imageSize: size, partition: 7, groups: 2 }).eval();
      const [h, w] = typeof size === "number" ? [size, size] : size;
      expect(traceModel(model, [1, 3, h, w]).output.shape).toEqual([1, 1000]);
    },
  );

  test("another picture size than the one it was built for is refused with the one it was built for", () => {
    const model = new RepMLPResNet({ ...small, imageSize: [64, 96], partition: 2, groups: 2 }).eval();
    const refusals = [
      [1, 3, 96, 64],
      [1, 1, 64, 96],
      [3, 64, 96],
    ].map((shape) => refusal(() => model.forward(input("x", shape))));
    expect(refusals).toMatchInlineSnapshot(`
      [
        "repmlp-resnet: the network was built for pictures [N, 3, 64, 96], got [1, 3, 96, 64]. Resize them, or build it with another \`imageSize\`.",
        "repmlp-resnet: the network was built for pictures [N, 3, 64, 96], got [1, 1, 64, 96]. Resize them, or build it with another \`imageSize\`.",
        "repmlp-resnet: the network was built for pictures [N, 3, 64, 96], got [3, 64, 96]. Resize them, or build it with another \`imageSize\`.",
      ]
    `);
  });

  test("without RepMLP blocks any size will do", () => {
    const model = new RepMLPResNet({ ...small, blockType: "base" }).eval();
    for (const size of [32, 75]) expect(traceModel(model, [1, 3, size, 2 * size]).output.shape).toEqual([1, 1000]);
    expect(refusal(() => model.forward(input("x", [1, 4, 32, 32])))).toMatchInlineSnapshot(
      `"repmlp-resnet: the network was built for pictures [N, 3, 32, 32], got [1, 4, 32, 32]. Resize them, or build it with another \`imageSize\`."`,
    );
  });

  test("uses RepMLP where the stride is 1 in stages 2 and 3 only", () => {
    const model = createModel("RepMLP-Res50-bottleneck-224");
    const blocks = [...model.modules()].filter(([path]) => /^stage[1-4]\.\d+$/.test(path));
    const names = (stage: number): string[] =>
      blocks.filter(([path]) => path.startsWith(`stage${stage}`)).map(([, m]) => m.constructor.name);
    expect(names(1)).toEqual(Array(3).fill("BaseBlock"));
    expect(names(2)).toEqual(["BaseBlock", ...Array(3).fill("BottleneckBlock")]);
    expect(names(3)).toEqual(["BaseBlock", ...Array(5).fill("BottleneckBlock")]);
    expect(names(4)).toEqual(Array(3).fill("BaseBlock"));
  });
});
