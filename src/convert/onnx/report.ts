import type { OnnxModel, OnnxNode } from "../../onnx/index.ts";
import { escapeHtml } from "../../report/html.ts";
import { fmtBytes } from "../../tensor/index.ts";
import type { OnnxConversion } from "./conversion.ts";
import { GraphView, nameOf } from "./graph.ts";
import type { OnnxMerge } from "./merge.ts";

const style = `.onnx{font:14px/1.5 system-ui,sans-serif;color:#222;background:#fff}
.onnx table{border-collapse:collapse}.onnx td,.onnx th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}
.onnx td:first-child,.onnx th:first-child,.onnx .text{text-align:left}
.onnx figure{margin:1rem 0;border-top:1px solid #ddd;padding-top:1rem}
.onnx .sides{display:flex;gap:2rem;align-items:center;overflow-x:auto}.onnx .sides svg{flex:none}
.onnx figcaption{font-weight:600}.onnx details{color:#555}.onnx .to{font-size:2rem;color:#888}`;

/** The files' names. */
type Names = readonly [before: string, after: string];

/** A page of its own that shows what became of a model: counts, size and speed, every changed part before and after. */
export const onnxReport = (names: Names, conversion: OnnxConversion): string =>
  `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${escapeHtml(names[1])}</title>
<style>body{margin:2rem auto;max-width:72rem;padding:0 1rem}</style></head><body>
${onnxReportBody(names, conversion)}
</body></html>
`;

/** The same without a page around it. */
export function onnxReportBody([load, save]: Names, conversion: OnnxConversion): string {
  const { merges, kept } = conversion;
  const left = kept.map(
    (k) => `<tr><td>${escapeHtml(`${k.operator} ${k.name}`)}</td><td class="text">${escapeHtml(k.reason)}</td></tr>`,
  );
  return `<style>${style}</style><div class="onnx"><h1>${escapeHtml(load)} → ${escapeHtml(save)}</h1>
${sizes(conversion)}
${differences(conversion)}
<h2>${counted(merges.length, "merge")}</h2>
${figures(conversion).join("\n")}
${left.length ? leftTable(left) : ""}</div>`;
}

const leftTable = (rows: readonly string[]): string =>
  `<h2>${counted(rows.length, "node")} that ${rows.length === 1 ? "was" : "were"} left</h2>
<table><tr><th>node</th><th class="text">why</th></tr>
${rows.join("\n")}
</table>`;

const counted = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;

function sizes({ counts: [before, after], bytes, proof }: OnnxConversion): string {
  const number = (n: number | undefined): string => (n === undefined ? "–" : n.toLocaleString("en-US"));
  const operators = [...new Set([...Object.keys(before.operators), ...Object.keys(after.operators)])];
  const rows: readonly (readonly [string, string, string])[] = [
    ["nodes", number(before.nodes), number(after.nodes)],
    ...operators
      .filter((op) => before.operators[op] !== after.operators[op])
      .map((op) => [`– ${op}`, number(before.operators[op] ?? 0), number(after.operators[op] ?? 0)] as const),
    ["parameters", number(before.parameters), number(after.parameters)],
    ["multiply-adds", number(before.multiplyAdds), number(after.multiplyAdds)],
    ["size", fmtBytes(bytes[0]), fmtBytes(bytes[1])],
    ...(proof
      ? [["one run", ...proof.milliseconds.map((ms) => `${ms.toFixed(2)} ms`)] as [string, string, string]]
      : []),
  ];
  const lines = rows.map((row) => `<tr>${row.map((cell) => `<td>${escapeHtml(cell)}</td>`).join("")}</tr>`);
  return `<table><tr><th></th><th>before</th><th>after</th></tr>\n${lines.join("\n")}</table>`;
}

function differences({ proof, tolerance }: OnnxConversion): string {
  if (!proof) return "<p>Not run: outputs were not compared.</p>";
  const rows = proof.outputs.map(
    (o) =>
      `<tr><td>${escapeHtml(o.name)}</td><td>${o.maxAbs.toExponential(1)}</td><td>${o.maxRel.toExponential(1)}</td></tr>`,
  );
  const tried = proof.sizes.map((feed) =>
    Object.entries(feed)
      .map(([name, shape]) => `${escapeHtml(name)} ${shape.join("×")}`)
      .join(", "),
  );
  return `<h2>Outputs</h2><p>Both were run on ${[...new Set(tried)].join("; ")}.</p>
<table><tr><th>largest difference</th><th>absolute</th><th>of its largest value (${tolerance.toExponential(0)} is allowed)</th></tr>${rows.join("")}</table>`;
}

/** A picture for each kind of merge: those whose parts look alike share one. */
function figures({ merges, models }: OnnxConversion): string[] {
  const [before, after] = models.map((model) => new Part(model));
  const alike = new Map<string, { readonly drawing: string; readonly merges: OnnxMerge[] }>();
  for (const merge of merges) {
    const old = before.named(merge.nodes.map(({ name }) => name));
    const now = after.named([merge.into, ...(merge.beside ?? [])]);
    const key = `${before.outline(old)} → ${after.outline(now)}`;
    const known = alike.get(key);
    if (known) known.merges.push(merge);
    else alike.set(key, { drawing: `${before.draw(old)}<span class="to">→</span>${after.draw(now)}`, merges: [merge] });
  }
  return [...alike.values()].map(({ drawing, merges: [first, ...others] }) => {
    const more = others.length
      ? `<details><summary>and ${counted(others.length, "part")} of the same form</summary>${others.map((m) => escapeHtml(m.into)).join("<br>")}</details>`
      : "";
    return `<figure><figcaption>${escapeHtml(first.into)}</figcaption><div class="sides">${drawing}</div>${more}</figure>`;
  });
}

/** Width and height of a box, and the space between boxes. */
const [WIDTH, HEIGHT, GAP] = [170, 34, 22];

/** Draws some nodes of a model with the values that come in from outside of them. */
class Part {
  private readonly nodes: ReadonlyMap<string, OnnxNode>;
  private readonly graph: GraphView;

  constructor(model: OnnxModel) {
    this.nodes = new Map(model.nodes.map((node) => [nameOf(node), node]));
    this.graph = new GraphView(model);
  }

  /** Nodes by name, each once. */
  named(names: readonly string[]): OnnxNode[] {
    return [...new Set(names)].flatMap((name) => this.nodes.get(name) ?? []).filter((n) => n.opType !== "Constant");
  }

  /** What a node is in a few words: the size of its kernel and its channels. */
  private label(node: OnnxNode): string {
    const [o, c, ...kernel] = this.graph.constant(node.inputs[1] ?? "")?.shape ?? [];
    const { group } = node.attrs;
    if (node.opType === "Conv" && kernel.length)
      return `${kernel.join("×")}, ${c * (typeof group === "number" ? group : 1)} → ${o}${typeof group === "number" && group > 1 ? `, ${group} groups` : ""}`;
    return "";
  }

  private layersOf(nodes: readonly OnnxNode[]): Map<OnnxNode, number> {
    const makers = makersOf(nodes);
    const layers = new Map<OnnxNode, number>();
    const layer = (node: OnnxNode, depth = 0): number => {
      const known = layers.get(node);
      if (known !== undefined || depth > nodes.length) return known ?? 0;
      const read = node.inputs.flatMap((name) => makers.get(name) ?? []);
      const own = Math.max(0, ...read.map((maker) => layer(maker, depth + 1))) + 1;
      layers.set(node, own);
      return own;
    };
    for (const node of nodes) layer(node);
    return layers;
  }

  /** Values that some nodes read and none of them makes. */
  private outside(nodes: readonly OnnxNode[]): string[] {
    const makers = makersOf(nodes);
    const names = nodes.flatMap((node) => node.inputs);
    return [...new Set(names)].filter((name) => name !== "" && !makers.has(name) && !this.graph.constant(name));
  }

  /** Equal for parts that look alike. */
  outline(nodes: readonly OnnxNode[]): string {
    const numbers = new Map<string, number>(this.outside(nodes).map((name, i) => [name, -1 - i]));
    for (const [i, { outputs }] of nodes.entries()) for (const name of outputs) numbers.set(name, i);
    return nodes
      .map((node) => `${node.opType} ${this.label(node)} ${node.inputs.flatMap((name) => numbers.get(name) ?? [])}`)
      .join("; ");
  }

  /** Boxes in layers, with lines from what a node reads. */
  draw(nodes: readonly OnnxNode[]): string {
    const [layers, makers] = [this.layersOf(nodes), makersOf(nodes)];
    const filled: number[] = [];
    const place = (layer: number): readonly [number, number] => {
      filled[layer] = (filled[layer] ?? 0) + 1;
      return [(filled[layer] - 1) * (WIDTH + GAP), layer * (HEIGHT + GAP)];
    };
    const sources = new Map(this.outside(nodes).map((name) => [name, place(0)] as const));
    const boxes = new Map(nodes.map((node) => [node, place(layers.get(node)!)] as const));
    const lines = nodes.flatMap((node) =>
      node.inputs.flatMap((name) => {
        const maker = makers.get(name);
        const from = sources.get(name) ?? (maker && maker !== node ? boxes.get(maker) : undefined);
        if (!from) return [];
        const [[x, y], [u, v]] = [from, boxes.get(node)!];
        const [a, b, c, d] = [x + WIDTH / 2, y + HEIGHT, u + WIDTH / 2, v];
        // Around the boxes in between, where there are any.
        const bend = d - b > HEIGHT && a === c ? WIDTH / 2 + GAP / 2 : 0;
        return `<path d="M${a} ${b}C${a + bend} ${b + GAP} ${c + bend} ${d - GAP} ${c} ${d}" fill="none" stroke="#999"/>`;
      }),
    );
    const inputs = [...sources].map(([name, at]) => box(at, "", name, "#fff", "#bbb"));
    const drawn = [...boxes].map(([node, at]) => {
      const label = this.label(node);
      return box(at, `${node.opType}${label && ` ${label}`}`, nameOf(node), "#eef3fb", "#7a9cc6");
    });
    const width = Math.max(1, ...filled.map((n) => n ?? 0)) * (WIDTH + GAP) + 2;
    const height = Math.max(1, filled.length) * (HEIGHT + GAP) - GAP + 2;
    return `<svg width="${width}" height="${height}" viewBox="-1 -1 ${width} ${height}" font-family="system-ui,sans-serif">${lines.join("")}${inputs.join("")}${drawn.join("")}</svg>`;
  }
}

const makersOf = (nodes: readonly OnnxNode[]): Map<string, OnnxNode> =>
  new Map(nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)));

function box([x, y]: readonly [number, number], title: string, name: string, fill: string, stroke: string): string {
  const short = name.length > 28 ? `…${name.slice(-27)}` : name;
  const text = (line: string, at: number, style: string): string =>
    `<text x="${x + WIDTH / 2}" y="${y + at}" text-anchor="middle" ${style}>${escapeHtml(line)}</text>`;
  return `<g><title>${escapeHtml(name)}</title><rect x="${x}" y="${y}" width="${WIDTH}" height="${HEIGHT}" rx="5" fill="${fill}" stroke="${stroke}"/>
${title ? text(title, 14, 'font-size="11" font-weight="600"') : ""}${text(short, title ? 27 : 21, 'font-size="9" fill="#555"')}</g>`;
}
