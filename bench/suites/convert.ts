import { join } from "node:path";
import { type Case, type Contestant, type Context, own, quotient, timesFaster } from "../case.ts";
import { arch, trainFile } from "./files.ts";

const root = join(import.meta.dirname, "..", "..");

/**
 * Conversion of a checkpoint as a program: this package, PyTorch doing what the first release of RepMLP did
 * (`bench/pytorch/convert.py`), and a copy of the file as the limit. The first reader would pay for the disk, but the
 * warm-up does. `repmlp convert` waits until its file is on the disk, which the other two leave to the system.
 */
export const convertCases = ({ pythons: [python], scratch, train }: Context): readonly Case[] => {
  const from = train ?? join(scratch, "train.pth");
  const to = join(scratch, "converted.pth");
  const program = (name: string, command: string, args: readonly string[]): Contestant => ({
    name,
    does: { kind: "program", command, args, writes: to },
  });
  return [
    {
      name: "convert/light-224",
      about: `repmlp convert, ${arch}, training form to deploy form`,
      setUp: async () => {
        if (!train) await trainFile(scratch);
      },
      contestants: [
        program(own, process.execPath, [join(root, "dist/cli/main.js"), "convert", from, to, "--no-verify"]),
        ...(python ? [program("PyTorch", python.program, [join(root, "bench/pytorch/convert.py"), from, to])] : []),
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
    },
  ];
};
