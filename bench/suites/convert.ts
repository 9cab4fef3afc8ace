import { join } from "node:path";
import { type Case, type Contestant, type Context, own, quotient, timesFaster } from "../case.ts";
import { arch, trainFile, trainFileOf } from "./files.ts";

const root = join(import.meta.dirname, "..", "..");

/**
 * Conversion of a checkpoint as a program: this package, PyTorch doing what the first release of RepMLP did
 * (`bench/pytorch/convert.py`) or for other blocks merging on the state dict (`convert_family.py`), and a copy of the file as the limit. The first reader would pay for the disk, but the
 * warm-up does. `repmlp convert` waits until its file is on the disk, which the other two leave to the system.
 */
export const convertCases = ({ pythons: [python], scratch, train }: Context): readonly Case[] => {
  const to = join(scratch, "converted.pth");
  const program = (name: string, command: string, args: readonly string[]): Contestant => ({
    name,
    does: { kind: "program", command, args, writes: to },
  });
  const conversion = (
    name: string,
    net: string,
    from: string,
    script: string,
    setUp: () => Promise<unknown>,
  ): Case => ({
    name: `convert/${name}`,
    about: `repmlp convert, ${net}, training form to deploy form`,
    setUp: async () => void (await setUp()),
    contestants: [
      program(own, process.execPath, [join(root, "dist/cli/main.js"), "convert", from, to, "--no-verify"]),
      ...(python ? [program("PyTorch", python.program, [join(root, "bench/pytorch", script), from, to])] : []),
      program("file copy", "cp", [from, to]),
    ],
    figures: [
      timesFaster("PyTorch"),
      {
        name: "ours ÷ file copy",
        unit: "×",
        value: (o) => quotient(o.get(own)?.median, o.get("file copy")?.median),
        smaller: true,
      },
      {
        name: "PyTorch's peak memory ÷ ours",
        unit: "×",
        value: (o) => quotient(o.get("PyTorch")?.peakMb, o.get(own)?.peakMb),
      },
    ],
  });
  const from = train ?? join(scratch, "train.pth");
  return [
    conversion("light-224", arch, from, "convert.py", async () => {
      if (!train) await trainFile(scratch);
    }),
    ...styles.map(([name, net]) =>
      conversion(name, net, join(scratch, `${net}.pth`), "convert_family.py", () => trainFileOf(net, scratch)),
    ),
  ];
};

/** One network of 15 to 40 million parameters for each style of blocks. */
const styles = [
  ["repvgg", "RepVGG-A2"],
  ["mobileone", "MobileOne-s4"],
  ["acb", "ResNet-50-ACB"],
  ["dbb", "ResNet-50-DBB"],
  ["conv-bn", "RepOpt-VGG-B1"],
  ["large-kernel", "RepLKNet-31B"],
] as const;
