import type { Io } from "./io.ts";
import {
  type CallOf,
  choice,
  command,
  decimal,
  decimals,
  either,
  flag,
  integer,
  many,
  type OptionSpec,
  optional,
  repeated,
  required,
  text,
  texts,
} from "./spec.ts";

const arch = text("-a, --arch <name>", "architecture; found from the checkpoint's keys when not given");
const numClasses = integer("--num-classes <n>", "number of classes, where it cannot be told");
const imageSize = integer("--image-size <n>", "height and width of the input in pixels, other than the architecture's");
const key = text(
  "--key <name>",
  "which state dict of a .pth to take, such as model_ema or ema.module, where it has several",
);
const prefix = text("--prefix <text>", 'what the network\'s keys begin with, such as "backbone."; others are left out');
const modelOption = repeated(
  "--model-option <name=value>",
  "option of the architecture other than its own, such as channels=[8,16,32], where the file does not state it",
);
/** Of all commands that open a checkpoint. */
const weights = { key, prefix, modelOption };
const labels = text("--labels <file>", "class names: one per line, or columns with index and name");
const output = text("-o, --output <file>", "write the counts as JSON");
const csv = text("--csv <file>", "add a line to a results file with timm's columns");
const threads = integer("--threads <n>", "threads of the network; by default OMP_NUM_THREADS or the physical cores");
const overwrite = flag("--overwrite", "take the place of an earlier run in the folder");
/** How a network for segmentation looks at pictures. */
const tiles = {
  mirror: flag("--mirror", "segmentation: look at the mirrored picture, too"),
  scales: decimals("--scales <x,…>", "segmentation: look at the picture at these scales, such as 0.75,1,1.25"),
  stride: decimal("--stride <share>", "segmentation: distance of two tiles by their size (default: 2/3)", {
    min: 0.05,
    max: 1,
  }),
  whole: flag("--whole", "segmentation: look at pictures as a whole, where the network takes any size"),
};
const minTop1 = decimal("--min-top1 <percent>", "exit code 1 below this accuracy", { min: 0, max: 100 });

/** Every command of the program. How to add one: see main.ts. */
export const commands = {
  convert: command({
    group: "Checkpoints",
    summary: "merge a training checkpoint, or any ONNX model, into its deploy form",
    description:
      "Reads, merges and writes one block after the other, so that memory holds a block and not the model. " +
      "Then runs both forms on random inputs and compares them; since that holds the whole model several times, " +
      "checkpoints with weights above 100 MB are compared with --verify only. " +
      ".pth, .safetensors and .onnx are read by content and written by file name. Architecture, form and number of " +
      "classes of a checkpoint are found from its keys and shapes; of an ONNX model, whoever made it, parallel branches, " +
      "batch norms and other linear layers become one with the convolutions around them. With --blocks a checkpoint may be " +
      "of any network: blocks of known kinds, and convolutions with a batch norm, are merged by their keys, everything else " +
      "stays; what keys do not tell is asked for.",
    examples: [
      ["repmlp convert light_train.pth light_deploy.safetensors", "merge, compare both forms, write"],
      ["repmlp convert train.pth deploy.pth -a RepMLP-Res50-light-224", "name the architecture"],
      ["repmlp convert train.pth deploy.pth --explain --verify", "say what becomes of each block; compare any size"],
      ["repmlp convert mobileone_s1.safetensors deploy.safetensors --names timm", "for timm to load again"],
      ["repmlp convert --blocks yolov6s.pt merged.pth --eps 1e-3 --explain", "a network that is not known here"],
      [
        "repmlp convert detector.onnx merged.onnx --report merged.html",
        "merge any ONNX model; draw what became of what",
      ],
    ],
    args: {
      load: required("training checkpoint, .pth or .safetensors, or model, .onnx"),
      save: required("file to write"),
    },
    options: {
      arch,
      numClasses,
      imageSize,
      ...weights,
      names: text(
        "--names <whose>",
        "whose names the keys of the merged network get, such as timm: default those of the network's authors",
      ),
      dtype: choice(
        "--dtype <type>",
        ["float32", "float16", "bfloat16", "float64"],
        "element type of the result; that of the checkpoint by default",
      ),
      explain: flag("--explain", "say what was merged in every block, and what was not"),
      verify: either(
        "--verify",
        "run both forms and compare them (default: checkpoints up to 100 MB of weights, every ONNX model)",
        "do not run both forms",
      ),
      inputs: texts(
        "--inputs <path...>",
        "compare ONNX models on these: .npy files, one per input in the model's order, or a folder of pictures",
      ),
      tolerance: decimal(
        "--tolerance <share>",
        "largest difference of an output of an ONNX model, by its largest value (default: 1e-4, half precision 2e-2)",
        { min: 0 },
      ),
      force: flag("--force", "write an ONNX model even where outputs differ by more"),
      report: text("--report <file>", "of an ONNX model: a page with the changed parts before and after"),
      blocks: flag("--blocks", "merge the blocks that are known by their keys, in a checkpoint of any network"),
      eps: repeated("--eps <x>", "with --blocks: eps of the batch norms, for some <path>=<x>"),
      identity: repeated(
        "--identity <yes|no>",
        "with --blocks: whether blocks add their input, where keys do not tell",
      ),
      partition: repeated("--partition <HxW>", "with --blocks: size of RepMLP's partitions"),
      kind: repeated("--kind <name>", "with --blocks: kind of blocks whose keys are those of several, or none"),
      transposed: repeated("--transposed <yes|no>", "with --blocks: whether layers are transposed convolutions"),
      skip: repeated("--skip <path>", "with --blocks: leave blocks as they are; * stands for anything"),
      keepPairs: flag(
        "--keep-pairs",
        "with --blocks: leave convolutions with only a batch norm after them as they are",
      ),
    },
  }),
  verify: command({
    group: "Checkpoints",
    summary: "compare a checkpoint with its merged form, or two checkpoints",
    description:
      "Runs both on the same random inputs and compares the outputs of the network and of every block; of two files " +
      "also the weights, merged, value by value. Exit code 1 when anything is further apart than the tolerance.",
    examples: [
      ["repmlp verify light_train.pth", "a training checkpoint against its own merged form"],
      ["repmlp verify light_train.pth light_deploy.safetensors", "two files"],
    ],
    args: {
      a: required("checkpoint"),
      b: optional("checkpoint to compare with; default: the merged form of the first"),
    },
    options: {
      arch,
      numClasses,
      imageSize,
      ...weights,
      tolerance: decimal(
        "--tolerance <x>",
        "largest difference relative to the largest value; by default what rounding to the file's element type explains",
        { min: 0 },
      ),
      samples: integer("--samples <n>", "number of random inputs", { default: 8 }),
      seed: integer("--seed <n>", "seed of the random inputs", { min: 0, default: 0 }),
      dtype: choice(
        "--dtype <type>",
        ["float32", "float64"],
        "compute in this type; float64 shows what rounding alone does",
        "float32",
      ),
    },
  }),
  selfcheck: command({
    group: "Checkpoints",
    summary: "check on one random block that merging changes nothing",
    description:
      "The check of the RepMLP paper's code: 8 channels, 14 x 14 input, 7 x 7 partitions, kernels 1, 3 and 5, " +
      "4 groups, batch norms with random values. Exit code 1 when the two forms differ.",
    examples: [
      ["repmlp selfcheck", "prints the summed squared difference"],
      ["repmlp selfcheck --seed 7 --json", "other random values, machine-readable"],
    ],
    args: {},
    options: {
      seed: integer("--seed <n>", "seed of weights and input", { min: 0, default: 0 }),
      tolerance: decimal("--tolerance <x>", "largest absolute difference that passes", { min: 0, default: 1e-5 }),
    },
  }),
  prune: command({
    group: "Training",
    summary: "prune a network: cut its channels or weights, with training before and after",
    description:
      "Finds which channels go together in the traced network (sums, concatenations, depthwise and grouped convolutions, " +
      "squeeze-and-excitation, flattened maps) and cuts them everywhere at once, until the share of multiply-adds is left " +
      "that is asked for. With --init the argument is a data set as for `repmlp train`: the network is trained by the " +
      "method, cut, and fine-tuned; resrep, csgd and aofp choose channels while they train, l1 and random at once; gsm " +
      "chooses single weights while it trains, magnitude at once; ticket takes the zeros of --mask. Ctrl-C leaves " +
      "checkpoints that --resume goes on from. Without --init the argument is the network, cut at once by l1 or random and " +
      "written to the second argument. A pruned checkpoint states its widths, so that every other command opens it. " +
      "Recipes: prune-l1, prune-resrep, prune-csgd, prune-aofp, prune-gsm; by default that of the method.",
    examples: [
      ["repmlp prune resnet56.pth pruned.safetensors --flops 0.5", "half of the multiply-adds, by L1 norms, at once"],
      ["repmlp prune model.onnx pruned.onnx --flops 0.7 --method random", "an ONNX model; the baseline"],
      [
        "repmlp prune cifar-10-batches-bin --method resrep --init resnet56.pth --flops 0.471 --out runs/resrep",
        "ResRep by its authors' settings",
      ],
      ["repmlp prune cifar-10-batches-bin --method resrep --init resnet56.pth --out runs/resrep --resume", "go on"],
      [
        'repmlp prune flowers --method aofp --init model.onnx --epochs 3 --fine-tune-epochs 5 --layers "*conv1*"',
        "an ONNX model, some of its layers",
      ],
      [
        "repmlp prune fashion-mnist --method gsm --init lenet.safetensors --share 0.0167",
        "a sixtieth of the weights stays",
      ],
    ],
    args: {
      input: required("with --init the folder of a data set, else a checkpoint in training form or an ONNX model"),
      save: optional("file to write, without --init"),
    },
    options: {
      flops: decimal("--flops <share>", "share of the multiply-adds that is left (default: 0.5, or the recipe's)", {
        min: 0,
      }),
      share: decimal("--share <share>", "gsm, magnitude: share of the weights that stays", { min: 0 }),
      method: choice(
        "--method <how>",
        ["l1", "random", "resrep", "csgd", "aofp", "gsm", "magnitude", "ticket"],
        "how channels or weights are chosen (default: l1, or the recipe's)",
      ),
      layers: texts("--layers <path...>", "layers whose channels may go, such as stage1.0.conv1.conv; by default all"),
      atLeast: decimal("--at-least <share>", "share of its channels that each layer keeps (default: 0.1)", { min: 0 }),
      init: text("--init <file>", "trained network to prune on a data set: checkpoint in training form, or ONNX model"),
      recipe: text("--recipe <name|file>", "with --init: recipe of the package, or a JSON file with an entry prune"),
      out: text("--out <folder>", "with --init: folder of everything that is written (default: runs/prune)"),
      epochs: integer("--epochs <n>", "of the method's training, instead of the recipe's"),
      fineTuneEpochs: integer("--fine-tune-epochs <n>", "epochs on what is left, instead of the recipe's", { min: 0 }),
      batchSize: integer("-b, --batch-size <n>", "pictures per step, instead of the recipe's"),
      lr: decimal("--lr <x>", "highest learning rate, instead of the recipe's", { min: 0 }),
      set: repeated("--set <name=value>", "another entry of the recipe's prune, such as lasso=0.01 or damage=0.05"),
      mask: text("--mask <file>", "ticket: sparse checkpoint whose zeros are taken"),
      resume: flag("--resume", "go on where the run in the folder was stopped"),
      overwrite,
      seed: integer("--seed <n>", "seed of random choices, and of order and augmentation", { min: 0, default: 0 }),
      arch,
      numClasses,
      imageSize,
      ...weights,
      output: text("--output <name>", "ONNX: the output that is looked at, where there are several"),
      batchNorm: choice(
        "--batch-norm <how>",
        ["frozen", "batch"],
        "ONNX: keep the statistics of batch norms, or train with those of the batch and update them",
        "frozen",
      ),
      mean: decimals("--mean <r,g,b>", "subtracted from each channel (0 to 1), where the network does not state it"),
      std: decimals("--std <r,g,b>", "what each channel is divided by then"),
      workers: integer("-j, --workers <n>", "threads that decode pictures", { min: 0 }),
      threads,
    },
  }),
  models: command({
    group: "Architectures",
    summary: "list architectures with their size in both forms",
    examples: [
      ["repmlp models", "all"],
      ['repmlp models "*light*"', "those that match"],
    ],
    args: { glob: optional("name with * and ? as wildcards") },
    options: {},
  }),
  summary: command({
    group: "Architectures",
    summary: "show the layers of an architecture, both forms side by side, or of a pruned checkpoint, before and after",
    examples: [
      ["repmlp summary RepMLP-Res50-light-224", "output shapes, parameters and multiply-adds"],
      ["repmlp summary RepMLP-Res50-light-224 --depth 2", "only the two upper levels"],
      ["repmlp summary pruned.safetensors", "widths of a pruned checkpoint beside those of the network that it was"],
    ],
    args: { arch: required("architecture (see `repmlp models`), or checkpoint") },
    options: {
      modelOption,
      depth: integer("--depth <n>", "levels of the layer tree", { default: 3 }),
      numClasses: integer("--num-classes <n>", "number of classes"),
      imageSize,
    },
  }),
  demo: command({
    group: "Training",
    summary: "train, convert, verify, export and report on real pictures that come with the package",
    description:
      "Trains a small RepMLP network on 6,000 pictures of Fashion-MNIST, merges it, compares both forms on the 1,000 " +
      "test pictures, measures both, and writes checkpoints, an ONNX file and a report. Ctrl-C leaves a checkpoint " +
      "that --resume goes on from.",
    examples: [
      ["repmlp demo", "about two minutes on two cores; results in runs/demo"],
      ["repmlp demo --epochs 20 --out runs/long", "train longer"],
      ["repmlp demo --resume", "go on after Ctrl-C"],
    ],
    args: {},
    options: {
      out: { ...text("--out <folder>", "where everything is written"), default: "runs/demo" } as OptionSpec<string>,
      epochs: integer("--epochs <n>", "epochs", { default: 7 }),
      batchSize: integer("--batch-size <n>", "pictures per step", { min: 2, default: 64 }),
      lr: decimal("--lr <x>", "peak learning rate", { min: 0, default: 0.05 }),
      seed: integer("--seed <n>", "seed of the initial values and the order of the pictures", { min: 0, default: 1 }),
      resume: flag("--resume", "go on from the checkpoint in the folder"),
      overwrite,
      threads,
    },
  }),
  train: command({
    group: "Training",
    summary: "train or fine-tune a network on a folder of pictures, by a recipe",
    description:
      "DATA is CIFAR-10 as distributed, MNIST or Fashion-MNIST (IDX files), or folders train and val with a folder of " +
      "pictures per class, for faces one per person; for segmentation folders train, trainannot, val and valannot of " +
      "pictures and masks, or those of ADE20K and Pascal VOC. A recipe is a small JSON file: architecture, epochs, optimizer, schedule, augmentation; those " +
      "of the package are named below, copy one to change it. Writes logs (CSV, JSON lines), learning curves (SVG) and " +
      "checkpoints. Ctrl-C leaves a checkpoint that --resume goes on from. With --init model.onnx the model itself is " +
      "trained, whoever made it, and written again as model.onnx in the folder. Started by mpirun or srun (mpirun -n 4 repmlp " +
      "train …), several processes share every batch. Patterns of keys: * stands for anything. " +
      "Recipes: cifar10-pure-mlp, cifar10-conv, cifar10-acnet, imagenet-repmlp-res50, fine-tune, quantize, quantize-merged, cityscapes-pspnet, faces.",
    examples: [
      ["repmlp train cifar-10-batches-bin --recipe cifar10-pure-mlp --out runs/mlp", "the paper's CIFAR-10 network"],
      ["repmlp train cifar-10-batches-bin --recipe cifar10-pure-mlp --out runs/mlp --resume", "go on after Ctrl-C"],
      [
        "repmlp train flowers --recipe fine-tune --init light_train.pth --num-classes 5",
        "fine-tune on another data set, with a new head",
      ],
      [
        "repmlp train flowers --recipe fine-tune --init light_deploy.pth --fc3-batch-norm --num-classes 5",
        "a merged network, with a batch norm after each FC3",
      ],
      [
        'repmlp train flowers --recipe fine-tune --init model.onnx --num-classes 5 --train "*fc*" "*layer4*"',
        "an ONNX model, some of its weights, a new head",
      ],
      [
        "repmlp train cityscapes --task segmentation --recipe cityscapes-pspnet --backbone res50_train.pth",
        "segmentation: PSPNet on a network of classes that was trained before",
      ],
      ["repmlp train people --task faces --recipe faces", "embeddings of faces"],
    ],
    args: { data: required("folder of the data set") },
    options: {
      arch: text("-a, --arch <name>", "architecture; by default the recipe's, else found from the keys of --init"),
      recipe: text("--recipe <name|file>", "recipe of the package, or a JSON file"),
      out: text("--out <folder>", "folder of everything that is written (default: runs/train)"),
      epochs: integer("--epochs <n>", "instead of the recipe's"),
      batchSize: integer("-b, --batch-size <n>", "instead of the recipe's"),
      lr: decimal("--lr <x>", "highest learning rate, instead of the recipe's", { min: 0 }),
      task: choice(
        "--task <name>",
        ["classification", "segmentation", "faces"],
        "what the network is for; by default what the architecture is for",
      ),
      init: text("--init <file>", "checkpoint of the training form, or ONNX model, to start from"),
      backbone: text("--backbone <file>", "checkpoint of a network of classes whose weights the backbone starts with"),
      key,
      prefix,
      numClasses: integer("--num-classes <n>", "start with a new head for the n classes of the data"),
      allowMismatch: texts(
        "--allow-mismatch <pattern...>",
        "keys of --init that may be missing, unexpected or of another shape",
      ),
      train: texts("--train <pattern...>", "keys that are trained; the rest is frozen"),
      freeze: texts("--freeze <pattern...>", 'keys that are not trained, such as "stage1.*"'),
      fc3BatchNorm: flag("--fc3-batch-norm", "--init is a merged network: train it with a batch norm after each FC3"),
      scales: text(
        "--scales <file>",
        "train under RepOptimizer with the scales of this checkpoint of a search network, such as RepOpt-VGG-B1-search",
      ),
      insertBatchNorms: flag(
        "--insert-batch-norms",
        "--init is a merged network: train it with a batch norm behind each convolution",
      ),
      replaceConvs: choice(
        "--replace-convs <block>",
        ["acb", "dbb", "repvgg", "mobileone"],
        "--init is a merged network or an ONNX model: train it with branches beside its convolutions",
      ),
      output: text("--output <name>", "ONNX: the output to train on, where there are several"),
      head: text("--head <name>", "ONNX: node or weight of the head, where it is not found"),
      batchNorm: choice(
        "--batch-norm <how>",
        ["frozen", "batch"],
        "ONNX: keep the statistics of batch norms, or train with those of the batch and update them",
        "frozen",
      ),
      imageSize: {
        ...integer("--image-size <n>", "height and width of a picture, where another one is wanted or none is stated"),
        library: ["imageShape"],
      },
      mean: decimals("--mean <r,g,b>", "subtracted from each channel (0 to 1), instead of what is stated"),
      std: decimals("--std <r,g,b>", "what each channel is divided by then"),
      resume: flag("--resume", "go on from the folder's last checkpoint"),
      overwrite,
      seed: integer("--seed <n>", "seed of initial values, order and augmentation", { min: 0, default: 0 }),
      workers: integer("-j, --workers <n>", "threads that decode pictures", { min: 0 }),
      threads: integer(
        "--threads <n>",
        "threads of the network; by default OMP_NUM_THREADS or the physical cores, shared out among the processes of a machine",
      ),
      batchNormStatistics: choice(
        "--batch-norm-statistics <how>",
        ["local", "averaged", "synced"],
        "of several processes: each norms by its own share and the first one's running statistics are kept, or the mean " +
          "of all; or all norm by the whole batch",
        "local",
      ),
      gradientExchange: choice(
        "--gradient-exchange <type>",
        ["float32", "bfloat16"],
        "what gradients travel as between processes: bfloat16 halves the bytes and rounds to 8 bits",
        "float32",
      ),
    },
  }),
  trainable: command({
    group: "Training",
    summary: "say whether an ONNX model made elsewhere can be trained here, and what of it",
    description:
      "Reads the model, finds its head, and follows the gradient from the output to every weight: names the operators " +
      "that are not supported, and those that have no gradient although weights that would be trained lie before them. " +
      "Exit code 1 if it cannot be trained so. Nothing is written.",
    examples: [
      ["repmlp trainable model.onnx", "everything"],
      ['repmlp trainable model.onnx --train "*fc*"', "whether some weights can be trained"],
    ],
    args: { model: required("ONNX file") },
    options: {
      train: texts("--train <pattern...>", "keys that are to be trained; the rest is frozen"),
      freeze: texts("--freeze <pattern...>", "keys that are not to be trained"),
      output: text("--output <name>", "the output to train on, where there are several"),
      head: text("--head <name>", "node or weight of the head, where it is not found"),
      numClasses: integer("--num-classes <n>", "whether it can be trained with a new head for n classes"),
      imageSize: {
        ...integer("--image-size <n>", "height and width of a picture, where the file leaves them open"),
        library: ["imageShape"],
      },
    },
  }),
  experiment: command({
    group: "Training",
    summary: "run a paper's CIFAR-10 experiment: RepMLP's pure MLP and ablations, or ACNet's Cifar-quick",
    description:
      "Trains the variants one after the other by the experiment's recipe, converts each, tests both forms, and " +
      "writes a table (results.md, .csv, .json) beside the published figures and a plot (accuracy.svg). Ctrl-C stops; the " +
      "same command goes on. cifar10 (recipe cifar10-pure-mlp): pure-mlp, wide-convnet, no-local, no-global, fc3-conv9, " +
      "conv9. acnet (recipe cifar10-acnet): plain, acb, dbb, repvgg.",
    examples: [
      ["repmlp experiment cifar10 --data cifar-10-batches-bin --epochs 8", "all variants; results in runs/cifar10"],
      [
        "repmlp experiment cifar10 --data cifar-10-batches-bin --epochs 100 --variants pure-mlp wide-convnet",
        "the paper's two networks at its number of epochs",
      ],
      [
        "repmlp experiment acnet --data cifar-10-batches-bin --seed 1",
        "Cifar-quick with four kinds of convolution units",
      ],
    ],
    args: { name: required("experiment: cifar10 or acnet") },
    options: {
      data: text("--data <folder>", "folder of CIFAR-10 (needed)"),
      epochs: integer("--epochs <n>", "epochs of every variant", { default: 8 }),
      variants: texts("--variants <name...>", "some of the variants"),
      out: text("--out <folder>", "folder of everything that is written (default: runs/ and the experiment)"),
      overwrite,
      lr: decimal("--lr <x>", "highest learning rate, instead of the recipe's", { min: 0 }),
      seed: integer("--seed <n>", "seed of initial values, order and augmentation", { min: 0, default: 0 }),
      threads,
    },
  }),
  export: command({
    group: "Deployment",
    summary: "write an ONNX file or a model folder from a checkpoint",
    description:
      "Merges the branches, writes the network as ONNX (input pixel_values, output logits) and runs the result beside " +
      "the network on random input. The layout hub makes a folder that transformers.js opens: config.json, " +
      "preprocessor_config.json, onnx/model.onnx and model_fp16.onnx, model.safetensors and a card.",
    examples: [
      ["repmlp export light_train.pth light.onnx", "merge, write, check"],
      ["repmlp export light_train.pth light-fp16.onnx --dtype float16", "half the size; input and output stay float32"],
      [
        "repmlp export light_train.pth light/ --layout hub --labels imagenet_classes.tsv",
        "a folder for transformers.js",
      ],
      ["repmlp export light_train.pth one.onnx --batch 1", "for one picture at a time"],
    ],
    args: {
      weights: required("checkpoint in either form, .pth or .safetensors"),
      out: required("file to write, or folder with --layout hub"),
    },
    options: {
      arch,
      imageSize,
      ...weights,
      dtype: choice(
        "--dtype <type>",
        ["float32", "float16", "fp32", "fp16"],
        "type of the weights, by its long or short name; hub folders have both by default",
      ),
      layout: choice("--layout <kind>", ["file", "hub"], "one ONNX file, or a model folder", "file"),
      keepBranches: flag("--keep-branches", "do not merge the training form"),
      opset: integer("--opset <n>", "ONNX operator set", { min: 17, max: 23, default: 17 }),
      batch: {
        flags: "--batch <n>",
        help: "pictures per run, or dynamic",
        default: "dynamic",
        expects: "a whole number from 1, or dynamic",
        parse: (given) => (given === "dynamic" ? given : /^[1-9]\d{0,8}$/.test(given) ? Number(given) : undefined),
      } as OptionSpec<number | "dynamic">,
      check: flag("--no-check", "do not run the result and compare"),
      labels,
      results: text("--results <file>", "result of repmlp test on these weights, for the card of a hub folder"),
      license: text("--license <name>", "license of the weights, for the card of a hub folder"),
    },
  }),
  predict: command({
    group: "Deployment",
    summary: "say what is in pictures",
    description:
      "Prints the classes of pictures. A network for segmentation writes for each picture, into a folder, the classes of its " +
      "pixels as a palette PNG of class numbers, and as colours over the picture.",
    examples: [
      ["repmlp predict light.onnx cat.jpg", "an exported file knows its preprocessing and labels"],
      ["repmlp predict light_deploy.pth *.jpg --labels imagenet_classes.tsv --top-k 3", "a checkpoint in either form"],
      ["repmlp predict pspnet.onnx street.png --out masks", "segmentation: writes masks/street.png and an overlay"],
    ],
    args: {
      weights: required("checkpoint (.pth, .safetensors) or exported .onnx file"),
      image: many("picture files"),
    },
    options: {
      arch,
      imageSize,
      ...weights,
      topK: integer("--top-k <n>", "classes to show (default: 5)"),
      labels,
      ...tiles,
      out: text("--out <folder>", "segmentation: where masks and overlays go (default: predictions)"),
    },
  }),
  embed: command({
    group: "Deployment",
    summary: "vectors of pictures, from a network of embeddings",
    description:
      "Writes a vector of length 1 for each picture: the sum of those of the picture and of its mirror image. A .npy file " +
      "is a float32 matrix with a row per picture, in their order; .jsonl has a line with path and vector each.",
    examples: [
      ["repmlp embed faces_train.pth people/*/*.jpg -o vectors.npy", "for NumPy and whoever reads its files"],
      ["repmlp embed faces.onnx a.jpg b.jpg -o vectors.jsonl", "lines of JSON, from an exported file"],
    ],
    args: {
      weights: required("checkpoint (.pth, .safetensors) or exported .onnx file"),
      image: many("picture files"),
    },
    options: {
      arch,
      imageSize,
      ...weights,
      output: text("-o, --output <file>", "file to write, .npy or .jsonl (default: lines of JSON on stdout)"),
      mirror: flag("--no-mirror", "take the embedding of the picture alone"),
      batchSize: integer("-b, --batch-size <n>", "pictures per run", { default: 32 }),
      threads,
    },
  }),
  "verify-faces": command({
    group: "Evaluation",
    summary: "one person or two: accuracy of a network of embeddings on pairs of pictures",
    description:
      "PAIRS is a CSV file label,a,b or LFW's pairs.txt. Ten folds as with LFW: the threshold is chosen on nine and tried on " +
      "the tenth. A checkpoint in training form is compared in both forms.",
    examples: [
      ["repmlp verify-faces pairs.csv faces_train.pth --data people", "accuracy and true accept rates, both forms"],
      ["repmlp verify-faces pairs.csv faces.onnx --baselines --roc roc.svg", "beside pixels and an untrained network"],
    ],
    args: {
      pairs: required("list of pairs"),
      weights: required("checkpoint (.pth, .safetensors) or exported .onnx file"),
    },
    options: {
      data: text("--data <folder>", "what the paths of the pairs are below (default: the folder of the list)"),
      arch,
      imageSize,
      ...weights,
      folds: integer("--folds <n>", "folds", { min: 2, default: 10 }),
      far: decimals("--far <x,…>", "false accept rates at which true ones are told (default: 0.01,0.001)"),
      mirror: flag("--no-mirror", "take embeddings of the pictures alone"),
      baselines: flag("--baselines", "beside the pixels themselves and an untrained network"),
      roc: text("--roc <file>", "draw true against false accept rates (SVG)"),
      batchSize: integer("-b, --batch-size <n>", "pictures per run", { default: 32 }),
      output,
      threads,
    },
  }),
  quantize: command({
    group: "Deployment",
    summary: "write an int8 ONNX model, calibrated with pictures",
    description:
      "Merges a checkpoint or an ONNX model, takes the ranges of its activations from pictures, and writes a plain ONNX " +
      "file (QDQ) with 8-bit weights, one scale per output channel. Ranges are chosen by the calibrator; auto takes for " +
      "each tensor the one with the least error of the outputs. The target says which machines the file is exact on: " +
      "portable (7-bit weights) on all, vnni on x86 with VNNI and on ARM, arm is fast on ARM.",
    examples: [
      [
        "repmlp quantize light_train.pth light_int8.onnx --calib imagenet/val",
        "merge, calibrate with 256 pictures, write",
      ],
      [
        "repmlp quantize any.onnx int8.onnx --calib pictures --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        "an ONNX model made elsewhere",
      ],
      ["repmlp quantize net.onnx int8.onnx --calib pictures --keep-float fc --target vnni", "the last layer in float"],
      [
        "repmlp quantize net.onnx int8.onnx --calib pictures --keep-float auto --budget 0.02",
        "as many layers in float as it takes for 98 % of the classes to stay",
      ],
      [
        "repmlp quantize light_deploy.pth light_q4.onnx --weight-only int4",
        "fully connected layers of 4 bits, no pictures",
      ],
    ],
    args: {
      model: required("checkpoint (.pth, .safetensors) or .onnx file"),
      out: required("ONNX file to write"),
    },
    options: {
      calib: text("--calib <folder>", "pictures like those that the model will see; folders in it count too"),
      stats: text("--stats <file>", "calibration statistics that --save-stats wrote, instead of --calib"),
      report: text(
        "--report <file>",
        "write a page (.html): accuracy and speed beside float; noise, range and histogram of every activation",
      ),
      eval: text(
        "--eval <folder>",
        "for --report: pictures in a folder per class to test on; by default --calib where its folders are the classes",
      ),
      saveStats: text("--save-stats <file>", "write the calibration statistics, a .safetensors file"),
      pictures: integer("--pictures <n>", "pictures to take, evenly over the folder", { default: 256 }),
      batchSize: integer("-b, --batch-size <n>", "pictures per run while calibrating", { default: 8 }),
      calibrator: choice(
        "--calibrator <name>",
        ["auto", "minmax", "percentile", "entropy", "mse"],
        "how ranges of activations are chosen",
        "auto",
      ),
      target: choice("--target <kind>", ["portable", "vnni", "arm"], "machines that the file is for", "portable"),
      keepFloat: texts(
        "--keep-float <auto|n|name...>",
        "layers that stay in float: the n that cost most, as many as it takes (auto), or by node, output or weight",
      ),
      budget: decimal("--budget <share>", "for --keep-float auto: share of pictures whose class may change", {
        min: 0,
        max: 1,
        default: 0.01,
      }),
      weightOnly: choice(
        "--weight-only <bits>",
        ["int8", "int4"],
        "store weights alone in fewer bits; no pictures needed",
      ),
      blockSize: integer(
        "--block-size <n>",
        "for --weight-only: inputs that share a scale in a fully connected layer",
        {
          default: 32,
        },
      ),
      float16: flag("--float16", "store weights alone in half precision; no pictures needed"),
      perChannel: flag("--no-per-channel", "one scale for a whole weight, as runtimes without scales per channel need"),
      raiseOpset: flag("--raise-opset", "write an ONNX model of operator set 9 to 12 as one of 13 first"),
      splitOutliers: flag(
        "--split-outliers",
        "split kernels whose middle is so large that it spoils the other weights",
      ),
      equalize: flag("--equalize", "even the channels of successive convolutions first"),
      biasCorrection: flag("--no-bias-correction", "do not take what rounding weights adds on average from biases"),
      mean: decimals("--mean <r,g,b>", "subtracted from each channel (0 to 1), where the file does not state it"),
      std: decimals("--std <r,g,b>", "what each channel is divided by then"),
      arch,
      numClasses,
      imageSize,
      ...weights,
    },
  }),
  test: command({
    group: "Evaluation",
    summary: "how well a network does on a folder of pictures",
    description:
      "DATA holds val/<class>/<picture>; folders are matched with the class names of the weights, and where these have " +
      "none, the index of a class is the rank of its folder's name. MODE is the form that the weights must be in, " +
      "train or deploy; check compares a training checkpoint with its merged form. Prints every tensor, the progress " +
      "lines and the last line of the original test program. Of a network for segmentation, DATA holds pictures with masks " +
      "as for train, and what is printed is the table of classes with mIoU; of one for faces, val/<person>/<picture>, and " +
      "it is how many pictures are nearest to the first one of their person.",
    examples: [
      ["repmlp test imagenet train light_train.pth", "accuracy of the training form"],
      ["repmlp test imagenet deploy light.onnx --csv results.csv", "an exported file; adds a line to a results file"],
      ["repmlp test sample deploy light.onnx --class-map imagenet_classes.tsv", "data with some of the classes"],
      ["repmlp test imagenet deploy light.onnx --shard 3/16 -o part3.json", "a sixteenth; see `repmlp merge`"],
      [
        "repmlp test camvid check pspnet_train.pth --mirror --scales 0.75,1,1.25",
        "segmentation: both forms in one table, at several scales and mirrored",
      ],
    ],
    args: {
      data: required("folder that holds val"),
      mode: required("train, deploy or check"),
      weights: required("checkpoint (.pth, .safetensors) or exported .onnx file"),
    },
    options: {
      arch,
      ...weights,
      workers: integer("-j, --workers <n>", "threads that decode pictures", { min: 0, default: 4 }),
      batchSize: integer("-b, --batch-size <n>", "pictures per batch (default: 100), or tiles of pictures (4)"),
      resolution: {
        ...integer("-r, --resolution <n>", "height and width of the input; the architecture's by default"),
        library: ["imageSize"],
      },
      classMap: text(
        "--class-map <file>",
        "which index a class folder is: lines of folder name and index, tabs between",
      ),
      shard: text("--shard <i/n>", "only the i-th of n parts"),
      strict: flag("--strict", "fail at a picture that cannot be read, instead of naming it and leaving it out"),
      part: text("--part <name>", "segmentation: which part of the data (default: val)"),
      ...tiles,
      overlays: text("--overlays <file>", "segmentation: a page with pictures, masks and what the network says"),
      distractors: text(
        "--distractors <folder>",
        "faces: people in folders who are nobody's match, in the gallery too",
      ),
      output,
      csv,
      minTop1,
      tolerance: decimal("--tolerance <x>", "for check: largest difference relative to the largest logit", {
        min: 0,
        default: 1e-4,
      }),
      threads,
    },
  }),
  merge: command({
    group: "Evaluation",
    summary: "add up the parts of a test that was run in shards",
    description: "Counters are added, so the result is that of one run. A missing or repeated part is an error.",
    examples: [["repmlp merge part*.json --csv results.csv", "after repmlp test --shard i/n -o part<i>.json"]],
    args: { part: many("files written by repmlp test --shard -o") },
    options: { output, csv, minTop1 },
  }),
  doctor: command({
    group: "Other",
    summary: "show versions, devices and what is missing on this machine; or how an int8 model fares on it",
    examples: [
      ["repmlp doctor", "the first thing to run when something does not work"],
      ["repmlp doctor light_int8.onnx", "layers whose sums saturate here, or would on other CPUs"],
    ],
    args: { model: optional("int8 .onnx file to run with usual and with exact kernels") },
    options: {},
  }),
} as const;

export type CommandName = keyof typeof commands;

/** What a command's run gets. */
export type Call<N extends CommandName> = CallOf<(typeof commands)[N]> & { readonly io: Io };

/**
 * What `commands/<name>.ts` exports as `run`: does the work by calls of the library and prints through `io`. Returns
 * 1 when a check failed; throws RepmlpError when the work did.
 */
export type Run<N extends CommandName> = (call: Call<N>) => Promise<1 | undefined>;
