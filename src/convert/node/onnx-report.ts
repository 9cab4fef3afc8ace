import { basename } from "node:path";
import type { OnnxNode } from "../../onnx/index.ts";
import { escapeHtml } from "../../report/html.ts";
import { fmtBytes } from "../../tensor/index.ts";
import type { OnnxMerge } from "../onnx/index.ts";
import type { OnnxConversion } from "./onnx-model.ts";

const style = `body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}figure{display:flex;gap:2rem;align-items:center;margin:1rem 0;
border-top:1px solid #ddd;padding-top:1rem;overflow-x:auto}figcaption{font-weight:600}.to{font-size:2rem;color:#888}`;

/** Width and height of a box, and the space between boxes. */
const [WIDTH, HEIGHT, GAP] = [170, 34, 22];

/** A page that shows every changed part of a model before and after, with sizes, times and what was left. */
export function onnxReport(load: string, save: string, conversion: OnnxConversion): string {
  const { counts, bytes, proof, merges, kept, models } = conversion;
  const [before, after] = counts;
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
      ? [
          ["one run", ...proof.milliseconds.map((ms) => `${ms.toFixed(2)} ms`)] as unknown as readonly [
            string,
            string,
            string,
          ],
        ]
      : []),
  ];
  const named = models.map(({ nodes }) => new Map(nodes.map((node) => [node.name || node.outputs[0], node] as const)));
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${escapeHtml(basename(save))}</title>
<style>${style}</style></head><body><h1>${escapeHtml(basename(load))} → ${escapeHtml(basename(save))}</h1>
<table><tr><th></th><th>before</th><th>after</th></tr>
${rows.map((row) => `<tr>${row.map((cell) => `<td>${escapeHtml(cell)}</td>`).join("")}</tr>`).join("\n")}</table>
${differences(conversion)}
<h2>${merges.length} merges</h2>
${merges.map((merge) => figure(merge, named[0], named[1])).join("\n")}
<h2>${kept.length} nodes that were left</h2>
<table><tr><th>node</th><th style="text-align:left">why</th></tr>
${kept.map((k) => `<tr><td>${escapeHtml(`${k.operator} ${k.name}`)}</td><td style="text-align:left">${escapeHtml(k.reason)}</td></tr>`).join("\n")}
</table></body></html>
`;
}

function differences({ proof, tolerance }: OnnxConversion): string {
  if (!proof) return "<p>Not run: outputs were not compared.</p>";
  const rows = proof.outputs.map(
    (o) =>
      `<tr><td>${escapeHtml(o.name)}</td><td>${o.maxAbs.toExponential(1)}</td><td>${o.maxRel.toExponential(1)}</td></tr>`,
  );
  return `<h2>Outputs</h2><table><tr><th>largest difference</th><th>absolute</th><th>of its largest value (${tolerance.toExponential(0)} is allowed)</th></tr>${rows.join("")}</table>`;
}

function figure(merge: OnnxMerge, before: ReadonlyMap<string, OnnxNode>, after: ReadonlyMap<string, OnnxNode>): string {
  const old = merge.nodes.flatMap(({ name }) => before.get(name) ?? []);
  const now = after.get(merge.into);
  return `<figure>${drawn(old)}<span class="to">→</span>${drawn(now ? [now] : [])}<figcaption>${escapeHtml(merge.into)}</figcaption></figure>`;
}

/** Nodes as boxes in layers, with lines from those that a node reads. */
function drawn(nodes: readonly OnnxNode[]): string {
  const makers = new Map(nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)));
  const layers = new Map<OnnxNode, number>();
  // Inputs come first in a merge, so that what a node reads is placed before it.
  for (const node of nodes) {
    const read = node.inputs.flatMap((name) => makers.get(name) ?? []);
    layers.set(node, Math.max(-1, ...read.map((maker) => layers.get(maker) ?? 0)) + 1);
  }
  const filled: number[] = [];
  const places = new Map(
    nodes.map((node) => {
      const layer = layers.get(node)!;
      filled[layer] = (filled[layer] ?? 0) + 1;
      return [node, [(filled[layer] - 1) * (WIDTH + GAP), layer * (HEIGHT + GAP)] as const] as const;
    }),
  );
  const lines = nodes.flatMap((node) =>
    node.inputs.flatMap((name) => {
      const maker = makers.get(name);
      if (!maker || maker === node) return [];
      const [[x, y], [u, v]] = [places.get(maker)!, places.get(node)!];
      return `<line x1="${x + WIDTH / 2}" y1="${y + HEIGHT}" x2="${u + WIDTH / 2}" y2="${v}" stroke="#999"/>`;
    }),
  );
  const boxes = nodes.map((node) => {
    const [x, y] = places.get(node)!;
    const name = node.name || node.outputs[0];
    const short = name.length > 26 ? `…${name.slice(-25)}` : name;
    return `<g><title>${escapeHtml(name)}</title><rect x="${x}" y="${y}" width="${WIDTH}" height="${HEIGHT}" rx="5" fill="#eef3fb" stroke="#7a9cc6"/>
<text x="${x + WIDTH / 2}" y="${y + 14}" text-anchor="middle" font-size="12" font-weight="600">${escapeHtml(node.opType)}</text>
<text x="${x + WIDTH / 2}" y="${y + 27}" text-anchor="middle" font-size="9" fill="#555">${escapeHtml(short)}</text></g>`;
  });
  const width = Math.max(1, ...filled) * (WIDTH + GAP) - GAP + 2;
  const height = Math.max(1, filled.length) * (HEIGHT + GAP) - GAP + 2;
  return `<svg width="${width}" height="${height}" viewBox="-1 -1 ${width} ${height}" font-family="system-ui,sans-serif">${lines.join("")}${boxes.join("")}</svg>`;
}
