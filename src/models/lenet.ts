import { fashionMnistNormalization } from "../data/index.ts";
import { flatten, maxPool2d, relu, type Value } from "../graph/index.ts";
import { Conv2d, Linear, Module, type Net } from "../nn/index.ts";
import { defineFamily, picturesOf } from "./family.ts";
import { oneOf, whole } from "./options.ts";

export interface LeNetOptions {
  readonly network: keyof typeof networks;
  /** Default 10. */
  readonly numClasses?: number;
}

/** LeNet-300-100: two fully connected layers of 300 and 100 values, and the head. */
class LeNet300100 extends Module {
  readonly fc1 = new Linear(28 * 28, 300);
  readonly fc2 = new Linear(300, 100);
  readonly fc3: Linear;

  constructor(numClasses: number) {
    super();
    this.fc3 = new Linear(100, numClasses);
  }

  forward(x: Value): Value {
    return this.fc3.forward(relu(this.fc2.forward(relu(this.fc1.forward(flatten(x))))));
  }
}

/** LeNet-5 as Caffe has it: 20 and 50 kernels of 5×5 with pooling, 500 values, and the head. */
class LeNet5 extends Module {
  readonly conv1 = new Conv2d(1, 20, { kernelSize: 5 });
  readonly conv2 = new Conv2d(20, 50, { kernelSize: 5 });
  readonly fc1 = new Linear(50 * 16, 500);
  readonly fc2: Linear;

  constructor(numClasses: number) {
    super();
    this.fc2 = new Linear(500, numClasses);
  }

  forward(x: Value): Value {
    const pooled = [this.conv1, this.conv2].reduce((y, conv) => maxPool2d(conv.forward(y), { kernelSize: 2 }), x);
    return this.fc2.forward(relu(this.fc1.forward(flatten(pooled))));
  }
}

const networks = {
  "300-100": LeNet300100,
  "5": LeNet5,
} satisfies Record<string, new (numClasses: number) => Net>;

/** The two networks on which pruning of single weights is compared (arXiv 1909.12778, section 4). Pictures `[N, 1, 28, 28]`. */
export const lenet = defineFamily<LeNetOptions>({
  name: "LeNet",
  variants: {
    "LeNet-300-100": {
      description: "two hidden layers, for MNIST and Fashion-MNIST",
      options: { network: "300-100" },
    },
    "LeNet-5": {
      description: "two convolutions and a hidden layer, for MNIST and Fashion-MNIST",
      options: { network: "5" },
    },
  },
  options: { network: oneOf("300-100", "5"), numClasses: whole },
  create: ({ network, numClasses = 10 }) => new networks[network](numClasses),
  preprocessing: () => picturesOf(28, fashionMnistNormalization),
  namings: [
    {
      name: "repmlp",
      signature: [
        ["fc1.weight", "fc2.weight", "fc3.weight"],
        ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"],
      ],
    },
  ],
});
