import { normalizeRows } from "../blocks/index.ts";
import { must } from "../errors.ts";
import type { Value } from "../graph/index.ts";
import { Module, type Net } from "../nn/index.ts";

/** A network whose embeddings have length 1; its state dict is that of the network. */
class UnitLength extends Module {
  static override readonly stateNames = { net: "" };

  constructor(readonly net: Net) {
    super();
  }

  forward(x: Value): Value {
    return normalizeRows(this.net.forward(x));
  }
}

/** How a network of a task is exported, and how transformers.js uses it. */
export interface TaskFormat {
  /** What is exported in place of the network itself. Default the network. */
  readonly exported?: (net: Net) => Net;
  /** Name of transformers.js's pipeline, which is the hub's tag too. */
  readonly pipeline: string;
  /** A model type whose calls fit: it selects how transformers.js calls the model, not what is computed. */
  readonly modelType: string;
  readonly architecture: string;
  readonly processor: string;
  /** Whether outputs stand for classes with names. */
  readonly hasClasses: boolean;
  /** Whether pictures are resized to the input as a whole, without a crop. */
  readonly squashes?: boolean;
  /** What the outputs are: so many classes, `[batch, …]`. */
  readonly outputs: { readonly noun: string; readonly shape: string };
  /** Lines of JavaScript that use the folder. */
  readonly usage: readonly string[];
}

const formats: Readonly<Record<string, TaskFormat>> = {
  classification: {
    pipeline: "image-classification",
    modelType: "resnet",
    architecture: "ResNetForImageClassification",
    processor: "BitImageProcessor",
    hasClasses: true,
    outputs: { noun: "classes", shape: "" },
    usage: [
      `const classify = await pipeline("image-classification", "path/or/name/of/this/folder");`,
      `console.log(await classify("picture.jpg"));`,
    ],
  },
  segmentation: {
    pipeline: "image-segmentation",
    modelType: "segformer",
    architecture: "SegformerForSemanticSegmentation",
    processor: "SegformerImageProcessor",
    hasClasses: true,
    squashes: true,
    outputs: { noun: "classes", shape: " of each pixel" },
    usage: [
      `const segment = await pipeline("image-segmentation", "path/or/name/of/this/folder");`,
      `for (const { label, mask } of await segment("picture.jpg")) await mask.save(\`\${label}.png\`);`,
    ],
  },
  faces: {
    exported: (net) => new UnitLength(net).train(net.training),
    pipeline: "image-feature-extraction",
    modelType: "resnet",
    architecture: "ResNetModel",
    processor: "BitImageProcessor",
    hasClasses: false,
    squashes: true,
    outputs: { noun: "features", shape: ", a vector of length 1" },
    usage: [
      `const embed = await pipeline("image-feature-extraction", "path/or/name/of/this/folder");`,
      `console.log((await embed("face.jpg")).data);`,
    ],
  },
};

/** How networks of a task are exported. Throws `export/task` for one that is not known. */
export function formatOf(task = "classification"): TaskFormat {
  const found = formats[task];
  must(
    found,
    "export/task",
    () => `export: nothing is known of the task ${task}. There are ${Object.keys(formats).join(", ")}.`,
    "usage",
  );
  return found;
}
