/**
 * Winning tickets by GSM's masks beside those of magnitudes (arXiv 1909.12778, section 4.4), from several seeds:
 *
 *   npx tsx scripts/winning-tickets.ts DATA OUT [--arch LeNet-300-100] [--share 0.0167] [--seeds 3] [--epochs 20] [--gsm-epochs 40]
 *
 * For each seed a network is trained (--epochs), made sparse by GSM (--gsm-epochs) and by magnitude at once; then its initial
 * weights are trained anew (--epochs) with the zeros of either. Runs that are there already are not run again; --table prints what
 * is there.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { createModel, parseRecipe, prune, saveCheckpointFile, train } from "../src/node.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    arch: { type: "string", default: "LeNet-300-100" },
    share: { type: "string", default: String(1 / 60) },
    seeds: { type: "string", default: "3" },
    epochs: { type: "string", default: "20" },
    "gsm-epochs": { type: "string", default: "40" },
    decay: { type: "string", default: "2e-3" },
    threads: { type: "string" },
    table: { type: "boolean", default: false },
  },
});
const [data, out] = positionals.map((path) => resolve(path));
if (out === undefined) throw new Error("usage: winning-tickets.ts DATA OUT [--arch NAME] [--share X] [--seeds N] …");
const { arch } = values;
const [share, seeds, epochs, gsmEpochs, decay] = [
  values.share,
  values.seeds,
  values.epochs,
  values["gsm-epochs"],
  values.decay,
].map(Number);
const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };

interface Figures {
  readonly dense: number;
  readonly gsm: number;
  readonly magnitude: number;
  readonly gsmTicket: number;
  readonly magnitudeTicket: number;
  readonly zeros: Readonly<Record<string, { readonly weights: number; readonly zeros: number }>>;
}

const recipe = (entries: object) =>
  parseRecipe(
    JSON.stringify({
      arch,
      epochs,
      batchSize: 64,
      lr: 0.03,
      optimizer: { name: "sgd", momentum: 0.9, weightDecay: 5e-4 },
      ...entries,
    }),
    "winning-tickets",
  );

async function figuresOf(seed: number): Promise<Figures> {
  const at = (name: string): string => join(out, `${seed}-${name}`);
  const initial = at("initial.safetensors");
  const net = createModel(arch).initialize(seed);
  await saveCheckpointFile(initial, net.stateDict(), { metadata: { format: "pt", arch } });
  const common = { data, seed, overwrite: true, ...threads };
  const dense = await train({ ...common, recipe: recipe({}), init: initial, folder: at("dense") });
  const trained = dense.weights!;
  const gsm = await prune({
    ...common,
    recipe: recipe({
      ...{ epochs: gsmEpochs, lr: 0.01 },
      optimizer: { name: "sgd", momentum: 0.99, weightDecay: decay },
      prune: { method: "gsm", share },
    }),
    init: trained,
    folder: at("gsm"),
  });
  const magnitude = await prune({
    ...common,
    recipe: recipe({ prune: { method: "magnitude", share } }),
    init: trained,
    folder: at("magnitude"),
  });
  const ticket = async (mask: string, name: string): Promise<number> => {
    const made = await prune({
      ...common,
      recipe: recipe({ prune: { method: "ticket", fineTune: { epochs } } }),
      ...{ init: initial, mask, folder: at(name) },
    });
    return made.tuned!;
  };
  return {
    dense: dense.summary.history.at(-1)!.validationTop1!,
    gsm: gsm.top1!.cut,
    magnitude: magnitude.top1!.cut,
    gsmTicket: await ticket(gsm.pruned!, "gsm-ticket"),
    magnitudeTicket: await ticket(magnitude.pruned!, "magnitude-ticket"),
    zeros: gsm.zeros!,
  };
}

mkdirSync(out, { recursive: true });
const found: Figures[] = [];
for (let seed = 0; seed < seeds; seed++) {
  const file = join(out, `${seed}.json`);
  if (!existsSync(file) && !values.table) writeFileSync(file, JSON.stringify(await figuresOf(seed)));
  if (existsSync(file)) found.push(JSON.parse(readFileSync(file, "utf8")) as Figures);
}
const percent = (x: number): string => `${(100 * x).toFixed(2)} %`;
const row = (name: string, of: (f: Figures) => number): string => {
  const all = found.map(of);
  return `| ${name} | ${all.map(percent).join(" | ")} | ${percent(all.reduce((a, b) => a + b, 0) / all.length)} |`;
};
console.log(
  [
    `| | ${found.map((_, seed) => `seed ${seed}`).join(" | ")} | mean |`,
    `|---|${"---:|".repeat(found.length + 1)}`,
    row("dense", (f) => f.dense),
    row("GSM, cut", (f) => f.gsm),
    row("magnitude, cut", (f) => f.magnitude),
    row("ticket by GSM", (f) => f.gsmTicket),
    row("ticket by magnitude", (f) => f.magnitudeTicket),
    ...Object.keys(found[0]?.zeros ?? {}).map((key) =>
      row(`zeros of ${key} (GSM)`, ({ zeros }) => zeros[key].zeros / zeros[key].weights),
    ),
  ].join("\n"),
);
