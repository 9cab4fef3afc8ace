/* The machine's own limits, as ONNX Runtime reaches them: matrix products and reading memory. */
import { compileModel, type Program, Tensor } from "../../src/index.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import type { Prepared, Tasks } from "./task.ts";

const io = (name: string, shape: readonly number[]) => ({ name, dtype: "float32" as const, shape });

/** Row, inner and column counts of the products that are tried: square ones, those of FC3, those of 1×1 convolutions. */
const products: readonly (readonly [m: number, k: number, n: number])[] = [
  [1024, 1024, 1024],
  [2048, 2048, 2048],
  [512, 1568, 1568],
  [256, 2048, 3136],
  [2048, 512, 784],
];

/** One product with the right operand constant (packed beforehand) or fed. */
function product([m, k, n]: (typeof products)[number], constant: boolean): OnnxModel {
  return {
    nodes: [{ opType: "MatMul", inputs: ["a", "b"], outputs: ["y"], name: "product", attrs: {} }],
    inputs: [io("a", [m, k]), ...(constant ? [] : [io("b", [k, n])])],
    outputs: [io("y", [m, n])],
    initializers: constant ? new Map([["b", Tensor.full("float32", [k, n], 0.5)]]) : new Map(),
    opset: 17,
  };
}

/** The best rate of several matrix products, GFLOP/s, over all runs. */
async function gemm({ threads }: { readonly threads: number }): Promise<Prepared> {
  const programs = await Promise.all(
    products.flatMap(([m, k, n]) =>
      [true, false].map(async (constant) => {
        const program = await compileModel(product([m, k, n], constant), { threads });
        const feeds = {
          a: Tensor.full("float32", [m, k], 0.5),
          ...(constant ? {} : { b: Tensor.full("float32", [k, n], 0.5) }),
        };
        return { program, feeds, flops: 2 * m * k * n };
      }),
    ),
  );
  let gflops = 0;
  return {
    run: async () => {
      for (const { program, feeds, flops } of programs)
        gflops = Math.max(gflops, flops / 1e9 / (await secondsOf(program, feeds)));
    },
    rates: () => ({ gflops }),
  };
}

async function secondsOf(program: Program, feeds: Readonly<Record<string, Tensor>>): Promise<number> {
  const start = performance.now();
  await program.run(feeds);
  return (performance.now() - start) / 1000;
}

/** 256 MB, far beyond any cache. */
const [rows, columns] = [8192, 8192];

/** The best rate of reading a large tensor, GB/s, over all runs. */
async function bandwidth({ threads }: { readonly threads: number }): Promise<Prepared> {
  const x = Tensor.full("float32", [rows, columns], 1);
  const reductions = await Promise.all(
    (["ReduceMax", "ReduceMean"] as const).map((opType) =>
      compileModel(
        {
          nodes: [{ opType, inputs: ["x"], outputs: ["y"], name: opType, attrs: { axes: [1], keepdims: 0 } }],
          inputs: [io("x", [rows, columns])],
          outputs: [io("y", [rows])],
          initializers: new Map(),
          opset: 17,
        },
        { threads },
      ),
    ),
  );
  let gbPerSecond = 0;
  return {
    run: async () => {
      for (const program of reductions)
        gbPerSecond = Math.max(gbPerSecond, x.byteLength / 1e9 / (await secondsOf(program, { x })));
    },
    rates: () => ({ gbPerSecond }),
  };
}

export const limitTasks: Tasks = { gemm, bandwidth };
