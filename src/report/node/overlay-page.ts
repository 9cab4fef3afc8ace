import { basename } from "node:path";
import type { Picture } from "../../data/index.ts";
import { type MaskLabels, type MaskPair, readPair } from "../../data/node/index.ts";
import { classColors, classOfPixels, overlay } from "../../tasks/index.ts";
import type { Segmenter } from "../../tasks/node/index.ts";
import { Tensor } from "../../tensor/index.ts";
import { escapeHtml } from "../html.ts";
import { pngUri } from "./picture.ts";

export interface OverlayPageOptions extends MaskLabels {
  readonly title: string;
}

const style = `
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } figure { margin: 0 0 1rem; } figcaption { font-size: .85rem; opacity: .8; }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; } .row img { width: 100%; }
.key { display: inline-block; margin: 0 1rem .3rem 0; } .key i { display: inline-block; width: 1em; height: 1em; margin-right: .4em; vertical-align: -.1em; }
`;

const uri = ({ width, height, data }: Picture & { readonly data: Uint8Array }): Promise<string> =>
  pngUri({ width, height, channels: 3, data });

/** A page of pictures, each with its mask and with what a network says, as colours over it; one HTML file without others. */
export async function overlayPage(
  segmenter: Segmenter,
  pairs: readonly MaskPair[],
  names: readonly string[],
  { title, ...labels }: OverlayPageOptions,
): Promise<string> {
  const colors = classColors(names.length);
  const figures: string[] = [];
  for (const pair of pairs) {
    const { picture, labels: wanted } = await readPair(pair, labels);
    const { data, shape } = await segmenter.probabilities(picture);
    const found = classOfPixels(new Tensor("float32", [1, ...shape], data as Float32Array<ArrayBuffer>));
    const pictures = [
      { ...picture, data: Uint8Array.from(picture.data) },
      overlay(picture, wanted, colors, 0.6),
      overlay(picture, found, colors, 0.6),
    ];
    let [right, counted] = [0, 0];
    for (const [p, label] of wanted.entries()) {
      if (label >= names.length) continue;
      counted++;
      if (found[p] === label) right++;
    }
    const images = await Promise.all(pictures.map(async (p) => `<img alt="" src="${await uri(p)}">`));
    figures.push(
      `<figure><div class="row">${images.join("")}</div><figcaption>${escapeHtml(basename(pair.picture))}: picture, mask, network; ${((100 * right) / counted).toFixed(1)} % of the pixels are right</figcaption></figure>`,
    );
  }
  const keys = names.map(
    (name, i) => `<span class="key"><i style="background:rgb(${colors[i]})"></i>${escapeHtml(name)}</span>`,
  );
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${escapeHtml(title)}</title><style>${style}</style>
<h1>${escapeHtml(title)}</h1>
<p>${keys.join("")}</p>
${figures.join("\n")}
</html>
`;
}
