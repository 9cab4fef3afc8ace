import { must } from "../errors.ts";
import type { Augmentation } from "./augment/augmentation.ts";
import { checkLabel, type ImageShape } from "./dataset.ts";
import type { NamedBytes } from "./idx-dataset.ts";
import type { Normalization } from "./normalize.ts";
import { PixelDataset } from "./pixel-dataset.ts";

export const cifar10Classes: readonly string[] = [
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
];
/** Over the 50,000 training pictures. */
export const cifar10Normalization: Normalization = {
  mean: [0.4914, 0.48216, 0.44653],
  std: [0.24703, 0.24349, 0.26159],
};

const imageShape: ImageShape = [3, 32, 32];
const imageBytes = 3 * 32 * 32;
const recordBytes = 1 + imageBytes;

export interface Cifar10Options extends Partial<Normalization> {
  /** Default: the ten names of CIFAR-10. */
  readonly classes?: readonly string[];
  readonly augment?: readonly Augmentation[];
}

/**
 * CIFAR-10 from files in its binary layout: records of one label byte, then 1024 red, green and blue bytes each.
 *
 * @param files one after the other; uncompressed
 * @throws `cifar/truncated` when a file is not a whole number of records, `data/label` naming file and record
 */
export function cifar10FromBytes(files: readonly NamedBytes[], options: Cifar10Options = {}): PixelDataset {
  const { classes = cifar10Classes } = options;
  const total = files.reduce((n, file) => n + recordCount(file), 0);
  const pixels = new Uint8Array(total * imageBytes);
  const labels = new Uint8Array(total);
  let slot = 0;
  for (const { name, bytes } of files)
    for (let start = 0, record = 0; start < bytes.length; start += recordBytes, record++, slot++) {
      checkLabel(bytes[start], classes.length, () => `${name}: record ${record}`);
      labels[slot] = bytes[start];
      pixels.set(bytes.subarray(start + 1, start + recordBytes), slot * imageBytes);
    }
  return new PixelDataset({
    ...cifar10Normalization,
    ...options,
    classes,
    pixels,
    labels,
    imageShape,
    name: "CIFAR-10",
  });
}

function recordCount({ name, bytes }: NamedBytes): number {
  const count = bytes.length / recordBytes;
  must(
    Number.isInteger(count) && count > 0,
    "cifar/truncated",
    () =>
      `${name}: ${bytes.length} bytes are not whole records of ${recordBytes}: record ${Math.floor(count)} is cut short. Download the binary version of CIFAR-10 again`,
    "file",
  );
  return count;
}
