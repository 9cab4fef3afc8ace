import { parseHTML } from "linkedom";
import sharp from "sharp";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { HostAlgebra, hostTensor } from "../../src/reparam/index.ts";
import { lineChart } from "../../src/report/node/chart.ts";
import { fcKernelPicture, pngUri } from "../../src/report/node/picture.ts";
import { type TrainingReport, trainingReport } from "../../src/report/node/training-report.ts";
import { Tensor } from "../../src/tensor/index.ts";
import type { EpochRecord } from "../../src/training/index.ts";

const elements = (markup: string, selector: string): Element[] => [
  ...parseHTML(`<html><body>${markup}</body></html>`).document.querySelectorAll(selector),
];

describe("line chart", () => {
  const points = (n: number): [number, number][] => Array.from({ length: n + 1 }, (_, i) => [i, i * i]);
  const draw = (n: number): Promise<string> =>
    lineChart([{ name: "a", points: points(n), dots: true }], { title: "A", xLabel: "x", yLabel: "y", xRange: [0, n] });

  test("is one SVG with a line, its points and a label for those who cannot see it", async () => {
    const drawn = await draw(3);
    const [svg, ...others] = elements(drawn, "svg");
    expect(others).toEqual([]);
    expect(svg.getAttribute("aria-label")).toBe("A");
    expect(elements(drawn, "[aria-label=line] path")).toHaveLength(1);
    const at = elements(drawn, "circle").map((c) => [Number(c.getAttribute("cx")), Number(c.getAttribute("cy"))]);
    expect(at).toHaveLength(4);
    // x is even, y falls (up the page) as the square.
    expect(at[2][0] - at[1][0]).toBeCloseTo(at[1][0] - at[0][0], 6);
    expect((at[3][1] - at[0][1]) / (at[1][1] - at[0][1])).toBeCloseTo(9, 6);
  });

  test("of a single point draws and says nothing", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const options = { title: "A", xLabel: "x", yLabel: "y", xRange: [0, 1] } as const;
    const svg = await lineChart(
      ["a", "b"].map((name, i) => ({ name, points: [[1, i]], dots: true })),
      options,
    );
    expect(warn).not.toHaveBeenCalled();
    expect(svg).not.toContain("⚠");
    expect(elements(svg, "circle")).toHaveLength(2);
    warn.mockRestore();
  });

  test.for([
    [1, "0 1"],
    [3, "0 1 2 3"],
    [30, "0 5 10 15 20 25 30"],
    [100, "0 10 20 30 40 50 60 70 80 90 100"],
  ] as const)("marks whole numbers up to %i", async ([n, marks]) => {
    const text = elements(await draw(n), "[aria-label='x-axis tick label'] text").map((t) => t.textContent);
    expect(text.join(" ")).toBe(marks);
  });
});

test("a kernel picture shows a convolution around each panel's own pixel", async () => {
  const size = [2, 3] as const;
  const kernel = hostTensor(Tensor.float32([1, 1, 3, 3], [0, 0, 0, 0, 1, -1, 0, 0, 0]));
  const fc = new HostAlgebra().convToFc(kernel, size).source().readSync();
  const picture = fcKernelPicture(fc, size, { scale: 1 });
  expect([picture.width, picture.height]).toEqual([3 * 4 + 1, 2 * 3 + 1]);
  const colour = (i: number, j: number, u: number, v: number): string => {
    const at = ((i * 3 + 1 + u) * picture.width + j * 4 + 1 + v) * 3;
    const [r, , b] = picture.data.subarray(at, at + 3);
    return r === b ? "white" : r > b ? "red" : "blue";
  };
  for (let i = 0; i < 2; i++)
    for (let j = 0; j < 3; j++)
      for (let u = 0; u < 2; u++)
        for (let v = 0; v < 3; v++) {
          const expected = u !== i ? "white" : v === j ? "red" : v === j + 1 ? "blue" : "white";
          expect([i, j, u, v, colour(i, j, u, v)]).toEqual([i, j, u, v, expected]);
        }
  const [, encoded] = (await pngUri(picture)).split("data:image/png;base64,");
  const { data } = await sharp(Buffer.from(encoded, "base64")).raw().toBuffer({ resolveWithObject: true });
  expect(data.equals(Buffer.from(picture.data))).toBe(true);
});

describe("training report", () => {
  const epoch = (n: number): EpochRecord => ({
    epoch: n,
    step: 20 * n,
    trainLoss: 1 / n,
    trainTop1: 0.5,
    validationLoss: 2 / n,
    validationTop1: 0.4,
    lr: 0.1,
    seconds: 1,
    imagesPerSecond: 100,
    dataWait: 0.015,
  });
  const form = { accuracy: 0.8765, parameters: 1234567, macs: 5_000_000, imagesPerSecond: 321, fileBytes: 7_500_000 };
  const picture = "data:image/png;base64,AAAA";
  const report: TrainingReport = {
    title: "A <b>net</b> & more",
    losses: Array.from({ length: 20 }, (_, i) => 1 / (i + 1)),
    history: [1, 2, 3].map(epoch),
    train: form,
    deploy: { ...form, parameters: 1234000 },
    equivalence: {
      path: "",
      maxAbs: 3e-6,
      maxRel: 2e-7,
      blocks: [],
      top1: { agree: 999, total: 1000 },
      disagreements: [],
    },
    predictions: [
      { picture, truth: "Coat", predicted: "Coat", confidence: 0.91 },
      { picture, truth: "Bag", predicted: "T-shirt/top", confidence: 0.5 },
    ],
    kernels: { layer: "rep0.fc3", before: picture, after: picture },
    facts: { "Batch size": "64" },
  };
  let html: string;
  beforeAll(async () => {
    html = await trainingReport(report);
  });

  test("holds the numbers of both forms, the epochs and the predictions", () => {
    const { document } = parseHTML(html);
    const rows = [...document.querySelectorAll("tr")].map((tr) =>
      [...tr.children].map((cell) => cell.textContent).join("|"),
    );
    expect(rows).toContain("Test accuracy|87.65 %|87.65 %");
    expect(rows).toContain("Parameters|1,234,567|1,234,000");
    expect(rows).toContain("2|0.5000|50.00 %|1.0000|40.00 %|100|1.5 %");
    expect(rows).toContain("Batch size|64");
    expect(document.body.textContent).toContain("999 of 1000");
    expect([...document.querySelectorAll(".wrong")].map((e) => e.textContent)).toEqual(["T-shirt/top"]);
    expect(document.querySelectorAll("svg")).toHaveLength(2);
  });

  test("is one file: nothing is fetched, names are escaped", () => {
    expect(html).toContain("A &lt;b&gt;net&lt;/b&gt; &amp; more");
    expect(html).not.toMatch(/<script|<link|@import|url\(/);
    const sources = [...html.matchAll(/(?:src|href)="([^"]*)"/g)].map(([, url]) => url);
    expect(sources.every((url) => url.startsWith("data:"))).toBe(true);
    expect(html.length).toBeLessThan(1e6);
  });

  test("puts the steps of a resumed run where they were done", () => {
    // 20 of 60 steps: the last third of the axis, between the marks 2 and 3.
    const [svg] = elements(html, "svg");
    const marks = [...svg.querySelectorAll("[aria-label='x-axis tick label'] text")].map((t) =>
      Number(/translate\(([\d.]+)/.exec(t.getAttribute("transform") ?? "")?.[1]),
    );
    const [line] = [...svg.querySelectorAll("[aria-label=line] path")];
    const [, x] = /^M([\d.]+),/.exec(line.getAttribute("d") ?? "")!;
    expect(Number(x)).toBeGreaterThan(marks[2]);
    expect(Number(x)).toBeLessThan(marks[2] + (marks[3] - marks[2]) / 4);
  });

  test("does without validation data", async () => {
    const history = report.history.map(({ validationLoss: _, validationTop1: __, ...rest }) => rest);
    expect(await trainingReport({ ...report, history })).toContain("<td>–</td>");
  });
});
