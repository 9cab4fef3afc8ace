import { join } from "node:path";
import { type Case, type Contestant, type Context, inNode, inPython, own, timesFaster } from "../case.ts";
import { arch, deployFile } from "./files.ts";

const root = join(import.meta.dirname, "..", "..");
const formats = ["pth", "safetensors", "onnx"] as const;

/** What a user waits for before the first result: a network from a file, the package, the program. */
export const loadCases = (context: Context): readonly Case[] => {
  const { scratch, threads } = context;
  const node = (name: string, ...args: readonly string[]): Contestant => ({
    name,
    does: { kind: "program", command: process.execPath, args },
  });
  const [imported, help] = ["import 'repmlp'", "repmlp --help"];
  return [
    ...formats.map((format): Case => {
      const path = join(scratch, `deploy.${format}`);
      return {
        name: `load/light-224-${format}`,
        about: `${arch}, deploy form: from a .${format} file to a network that can run`,
        setUp: async () => {
          await deployFile(scratch, "pth");
          await deployFile(scratch, format);
        },
        contestants: [
          inNode(own, "load", { path, threads }),
          // torch.load and load_state_dict of the same values.
          ...inPython(context, "load", { path: join(scratch, "deploy.pth"), arch, threads }),
        ],
        figures: [timesFaster("PyTorch")],
      };
    }),
    {
      name: "load/package",
      about: "whole processes: the package imported, the program's help, and Node by itself",
      contestants: [
        node(imported, "--input-type=module", "--eval", "import 'repmlp'"),
        node(help, join(root, "dist/cli/main.js"), "--help"),
        node("node alone", "--input-type=module", "--eval", "0"),
      ],
      figures: [imported, help].map((name) => ({
        name,
        unit: "ms" as const,
        value: (o) => {
          const seconds = o.get(name)?.median;
          return seconds === undefined ? undefined : 1000 * seconds;
        },
        floor: 150,
        aim: 80,
        smaller: true,
      })),
    },
  ];
};
