import { must } from "../../errors.ts";
import type { Augmentation } from "../augment/augmentation.ts";
import type { Normalization } from "../preprocessing/normalize.ts";
import type { CifarPart } from "./cifar-part.ts";
import { pickledPart } from "./cifar-pickle.ts";
import { checkLabel, type ImageShape } from "./dataset.ts";
import type { NamedBytes } from "./idx-dataset.ts";
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
 * CIFAR-10 from files in its binary layout (records of one label byte, then 1024 red, green and blue bytes each) or in
 * its Python one (pickles of protocol 2 to 5).
 *
 * @param files one after the other; uncompressed
 * @throws `cifar/truncated` when a file is not a whole number of records, `data/label` naming file and record, and what
 *   {@link pickledPart} throws
 */
export function cifar10FromBytes(files: readonly NamedBytes[], options: Cifar10Options = {}): PixelDataset {
  const { classes = cifar10Classes } = options;
  const parts = files.map((file) => ({ name: file.name, part: (isPickle(file) ? pickledPart : binaryPart)(file) }));
  const total = parts.reduce((n, { part }) => n + part.length, 0);
  const pixels = new Uint8Array(total * imageBytes);
  const labels = new Uint8Array(total);
  let slot = 0;
  for (const { name, part } of parts)
    for (let record = 0; record < part.length; record++, slot++) {
      const label = part.label(record);
      checkLabel(label, classes.length, () => `${name}: record ${record}`);
      labels[slot] = label;
      pixels.set(part.picture(record), slot * imageBytes);
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

/** Begins as a pickle of a protocol that has a mark of its own; as a record it would have label 128. */
const isPickle = ({ bytes }: NamedBytes): boolean => bytes[0] === 0x80 && bytes[1] >= 2 && bytes[1] <= 5;

function binaryPart({ name, bytes }: NamedBytes): CifarPart {
  const count = bytes.length / recordBytes;
  must(
    Number.isInteger(count) && count > 0,
    "cifar/truncated",
    () =>
      `${name}: ${bytes.length} bytes are not whole records of ${recordBytes}: record ${Math.floor(count)} is cut short. Download the binary version of CIFAR-10 again`,
    "file",
  );
  return {
    length: count,
    label: (index) => bytes[index * recordBytes],
    picture: (index) => bytes.subarray(index * recordBytes + 1, (index + 1) * recordBytes),
  };
}
