import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mergeOnnx } from "../../src/convert/onnx/index.ts";
import { compileModel, quantizeOnnx, rng, Tensor } from "../../src/node.ts";
import { decodeOnnx, encodeOnnx } from "../../src/onnx/index.ts";
import type { Device } from "../../src/runtime/index.ts";
import type { Job, JobResult } from "../../web/src/job.ts";
import { trainAndVerify } from "../../web/src/train.ts";
import { Builder } from "../convert/onnx-models.ts";
import { merging } from "../convert/onnx-networks.ts";
import { quantizable } from "../quantize/support.ts";
import { buildAndServe, chromiumPath, launch, type Site } from "./harness.ts";
import type { Footprint, Tools } from "./probe.ts";

if (!chromiumPath)
  console.warn("browser tests are skipped: no Chromium found. Install one, or set CHROMIUM to its path.");

describe.skipIf(!chromiumPath)("the page in Chromium", () => {
  let site: Site;
  let browser: Browser;
  let page: Page;
  /** Another page, for `probe.ts`. */
  let probe: Page;
  let inNode: JobResult;
  const failures: string[] = [];

  beforeAll(async () => {
    [site, inNode] = await Promise.all([buildAndServe(), trainAndVerify({ device: "cpu", steps: 10 })]);
    browser = await launch();
    page = await browser.newPage();
    page.on("pageerror", (error) => failures.push(error.message));
    page.on("requestfailed", (request) => failures.push(`${request.url()} could not be loaded`));
    probe = await browser.newPage();
    await Promise.all([page, probe].map((tab) => tab.goto(site.url)));
    await probe.addScriptTag({ url: "probe/probe.js", type: "module" });
  }, 240_000);

  afterAll(async () => {
    await browser?.close();
    await site?.close();
  });

  const runInPage = (job: Job): Promise<JobResult> =>
    page.evaluate((j) => (globalThis as unknown as { startJob(job: Job): Promise<JobResult> }).startJob(j), job);

  const expectSame = (result: JobResult): void => {
    expect(result.losses).toHaveLength(10);
    for (const [i, loss] of result.losses.entries()) expect(Math.abs(loss - inNode.losses[i])).toBeLessThan(1e-4);
    expect(result.losses[9]).toBeLessThan(result.losses[0]);
    expect(result.maxRel).toBeLessThan(1e-5);
    expect(result.agree).toBe(result.total);
    expect(result.parameters).toEqual(inNode.parameters);
  };

  test("trains ten steps with WebAssembly as Node does, converts and verifies", async () => {
    const result = await runInPage({ device: "cpu", steps: 10 });
    expectSame(result);
    // The site is cross-origin isolated, so there are threads where there are cores.
    expect(result.threads).toBe(Math.min(await page.evaluate(() => navigator.hardwareConcurrency), 8));
    expect(await page.textContent("#status")).toBe("Done: the merged network computes the same.");
    expect(failures).toEqual([]);
  }, 60_000);

  test("the same on one thread", async () => {
    const result = await runInPage({ device: "cpu", steps: 10, threads: 1 });
    expect(result.threads).toBe(1);
    expectSame(result);
  }, 60_000);

  test("the same on WebGPU, with every node on the device", async () => {
    const adapter = await page.evaluate(async () => {
      const gpu = (navigator as { gpu?: { requestAdapter(): Promise<unknown> } }).gpu;
      return Boolean(gpu && (await gpu.requestAdapter()));
    });
    expect(adapter, "Chromium offers no WebGPU adapter, not even the software one").toBe(true);
    expectSame(await runInPage({ device: "webgpu", steps: 10, deviceOnly: true }));
    expect(failures).toEqual([]);
  }, 240_000);

  test("a failure is shown, not swallowed", async () => {
    await expect(runInPage({ device: "cuda", steps: 1 })).rejects.toThrow(/cuda/);
    expect(await page.getAttribute("#status", "class")).toBe("error");
  }, 60_000);

  describe("an ONNX file", () => {
    const b = new Builder();
    const [, network] = merging.find(([name]) => name === "RepVGG")!;
    const bytes = encodeOnnx(b.model([network(b)]));
    const status = (): Promise<string | null> => page.textContent("#merge-status");
    const finished = () =>
      page.waitForFunction(() => !document.querySelector("#merge-status")?.textContent?.endsWith("…"));

    test("that is chosen comes out merged, byte for byte as in Node", async () => {
      await page.setInputFiles("#model", { name: "small.onnx", mimeType: "", buffer: Buffer.from(bytes) });
      await finished();
      expect(await status()).toMatch(
        /^7 nodes became 1 \(1 merge\); largest difference \d\.\de-\d+ of an output's largest value\.$/,
      );
      expect(await page.getAttribute("#merged", "download")).toBe("small.merged.onnx");
      const href = await page.getAttribute("#merged", "href");
      const file = await page.evaluate(
        async (url) => [...new Uint8Array(await (await fetch(url!)).arrayBuffer())],
        href,
      );
      const { model } = mergeOnnx(decodeOnnx(bytes, { keep: true }));
      expect(Uint8Array.from(file)).toEqual(encodeOnnx(model));
      expect(await page.locator("#report figure svg").count()).toBe(2);
      expect(await page.textContent("#report figure")).toContain("BatchNormalization");
      expect(failures).toEqual([]);
    }, 60_000);

    test("that is dropped and damaged is refused with the reason, and nothing is offered", async () => {
      const dropped = await page.evaluateHandle(
        (values) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(values)], "cut.onnx"));
          return transfer;
        },
        [...bytes.subarray(0, 100)],
      );
      await page.dispatchEvent("#drop", "drop", { dataTransfer: dropped });
      await finished();
      expect(await status()).toMatch(/^cut\.onnx: not an ONNX model or cut short \(100 bytes/);
      expect(await page.isHidden("#merged")).toBe(true);
      expect(await page.getAttribute("#merge-status", "class")).toBe("error");
      expect(failures).toEqual([]);
    }, 60_000);
  });

  test("a quantized model gives the integers that it gives in Node", async () => {
    const inputShape = [8, 3, 12, 12] as const;
    const random = rng(3, "pictures");
    const values = Float32Array.from({ length: 8 * 3 * 12 * 12 }, () => random.normal());
    const feeds = { x: new Tensor("float32", inputShape, values) };
    const { model } = await quantizeOnnx(quantizable(inputShape), [feeds]);
    const integers = model.nodes.filter(({ opType }) => opType === "QuantizeLinear");
    expect(integers.length).toBeGreaterThan(4);
    const { valueInfo: _, ...rest } = model;
    const shown = {
      ...rest,
      outputs: [...model.outputs, ...integers.map(({ outputs: [name] }) => ({ name, dtype: "uint8" as const }))],
    };
    await using program = await compileModel(shown);
    const expected = await program.run(feeds);
    await probe.route("**/model.onnx", (route) => route.fulfill({ body: Buffer.from(encodeOnnx(shown)) }));
    await probe.route("**/input.f32", (route) => route.fulfill({ body: Buffer.from(values.buffer) }));
    const made = await probe.evaluate(
      (shape) => (globalThis as unknown as Tools).runModel("model.onnx", "input.f32", shape),
      inputShape,
    );
    const far = shown.outputs.map(({ name }, i) =>
      made[i].values.reduce((most, v, j) => Math.max(most, Math.abs(v - Number(expected[name].data[j]))), 0),
    );
    expect(Math.max(...far.slice(1))).toBeLessThanOrEqual(1);
    const classes = (rows: ArrayLike<number>): number[] =>
      Array.from({ length: 8 }, (__, i) => {
        const row = Array.from(rows).slice(10 * i, 10 * i + 10);
        return row.indexOf(Math.max(...row));
      });
    const logits = expected[model.outputs[0].name].toFloat64();
    expect(classes(made[0].values)).toEqual(classes(logits));
    expect(new Set(classes(logits)).size).toBeGreaterThan(1);
  }, 60_000);

  const footprint = (device: Device, times: number): Promise<Footprint> =>
    probe.evaluate((job) => (globalThis as unknown as Tools).trainRepeatedly(...job), [device, times] as const);

  test("training again and again does not need more memory", async () => {
    const { wasm } = await footprint("cpu", 3);
    expect(wasm).toBeGreaterThan(0);
    expect(await footprint("cpu", 12)).toEqual({ wasm, device: 0 });
  }, 60_000);

  test("nothing stays on the device", async () => {
    expect(await footprint("webgpu", 1)).toMatchObject({ device: 0 });
  }, 120_000);
});
