import { describe, expect, expectTypeOf, test } from "vitest";
import {
  ConvBnRelu,
  convertToDeploy,
  createModel,
  Learner,
  Module,
  type Net,
  nn,
  oneHotTargets,
  ops,
  type Reparameterizable,
  RepMLP,
  sgd,
  type Tensor,
  type Value,
  verifyEquivalence,
} from "../../src/node.ts";
import { randomTensor } from "../reparam/support.ts";

/** A user's network, written with what the package exports. */
class MyNet extends Module {
  readonly stem = new ConvBnRelu(3, 8, { kernelSize: 3, padding: 1 });
  readonly mix = new RepMLP({
    inChannels: 8,
    height: 8,
    width: 8,
    partition: 4,
    reparamConvKernels: [1, 3],
    groups: 4,
  });
  readonly head = new nn.Linear(8, 10);

  forward(x: Value): Value {
    return this.head.forward(ops.globalAvgPool(ops.relu(this.mix.forward(this.stem.forward(x)))));
  }
}

describe("a network of one's own", () => {
  test("is trained, converted and verified in a few lines", async () => {
    const model = new MyNet().initialize(0);
    const learner = new Learner(model, { optimizer: sgd({ momentum: 0.9 }) });
    const losses: number[] = [];
    for (let i = 0; i < 5; i++) {
      const { loss } = await learner.train(randomTensor([4, 3, 8, 8], "batch"), oneHotTargets([1, 4, 7, 9], 10), 0.1);
      losses.push(loss);
    }
    await learner.sync();
    await learner.dispose();
    expect(losses[4]).toBeLessThan(losses[0]);
    const deploy = convertToDeploy(model.eval());
    const { maxRel, top1 } = await verifyEquivalence(model, deploy, { inputShape: [3, 8, 8] });
    expect(maxRel).toBeLessThan(1e-5);
    expect(top1).toEqual({ agree: 8, total: 8 });
    expect([nn.countParameters(model), nn.countParameters(deploy)]).toMatchInlineSnapshot(`
      [
        6994,
        6650,
      ]
    `);
  });
});

describe("types: wrong wiring does not compile", () => {
  test("forward takes and gives graph values", () => {
    expectTypeOf(new MyNet().forward).parameters.toEqualTypeOf<[Value]>();
    expectTypeOf(new MyNet().forward).returns.toEqualTypeOf<Value>();
    expectTypeOf<MyNet>().toExtend<Net>();
    expectTypeOf<nn.BatchNorm1d>().toExtend<Net>();
  });

  test("conversion and copies keep the model's type", () => {
    expectTypeOf(convertToDeploy<MyNet>).returns.toEqualTypeOf<MyNet>();
    expectTypeOf(nn.cloneModule<MyNet>).returns.toEqualTypeOf<MyNet>();
    expectTypeOf(createModel).returns.toEqualTypeOf<Net>();
    expectTypeOf<RepMLP>().toExtend<Reparameterizable>();
    expectTypeOf<MyNet>().not.toExtend<Reparameterizable>();
  });

  test("mistakes", () => {
    // Never called: the compiler checks it, and each directive is itself an error where nothing is wrong.
    const mistakes = (x: Value, picture: Tensor, net: MyNet): void => {
      // @ts-expect-error a picture is not a value of the graph
      net.forward(picture);
      // @ts-expect-error a layer has one input
      net.head.forward(x, x);
      // @ts-expect-error a layer is not a function
      net.head(x);
      // @ts-expect-error the kernel's size is missing
      new nn.Conv2d(3, 8, { padding: 1 });
      // @ts-expect-error no such option
      new nn.Conv2d(3, 8, { kernelSize: 3, pading: 1 });
      // @ts-expect-error three sizes for two axes
      new nn.Conv2d(3, 8, { kernelSize: [3, 3, 3] });
      // @ts-expect-error the size of the map is missing
      new RepMLP({ inChannels: 8, partition: 4 });
      // @ts-expect-error PyTorch's name of an option
      new RepMLP({ inChannels: 8, height: 8, width: 8, partition: 4, fc3Groups: 4 });
      // @ts-expect-error a module without forward cannot stand in a row
      new nn.Sequential(new (class extends Module {})());
      // @ts-expect-error fields are fixed: replace them with cloneWith
      net.head = new nn.Linear(8, 100);
      // @ts-expect-error a mode is set with train() and eval()
      net.training = false;
      // @ts-expect-error no such field to replace
      nn.cloneWith(net, { haed: undefined });
      // @ts-expect-error the network must map one value to one value
      verifyEquivalence(new (class extends Module {})(), net);
      // @ts-expect-error no such data type
      nn.toDtype(net, "float8");
      // @ts-expect-error ops take values
      ops.add(x, net);
    };
    expect(mistakes).toBeTypeOf("function");
  });
});
