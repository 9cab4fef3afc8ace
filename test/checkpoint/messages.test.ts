import { expect, test } from "vitest";
import { failure, fixture, open, pthOf, stateDict, tensor, text } from "./support.ts";

const messageOf = async (name: string) => (await failure(fixture(name), name)).message;

test("what is wrong, where, and what to do", async () => {
  expect(await messageOf("bad_crc.pth")).toMatchInlineSnapshot(
    `"bad_crc.pth: tensor "stage0.conv.weight": zip entry plain_zip/data/0 has CRC-32 566b0a11, the zip directory says c42ce320. The file is damaged; get it again."`,
  );
  expect(await messageOf("short_storage.pth")).toMatchInlineSnapshot(
    `"short_storage.pth: tensor "stage0.conv.weight": zip entry data/0 has 428 bytes, the pickle says 432 (108 x float32). The file is damaged; get it again."`,
  );
  expect(await messageOf("missing_storage.pth")).toMatchInlineSnapshot(
    `"missing_storage.pth: tensor "stage0.bn.weight": needs storage "1", which the file does not hold. The file is damaged; get it again."`,
  );
  expect(await messageOf("truncated_zip.pth")).toMatchInlineSnapshot(
    `"truncated_zip.pth: starts like a zip file but has no zip directory at its end. It is truncated; get it again."`,
  );
  expect(await messageOf("truncated_legacy.pth")).toMatchInlineSnapshot(
    `"truncated_legacy.pth: storage "213887152" needs bytes 1956 to 1964, the file has 1947. It is truncated or damaged; get it again."`,
  );
  expect(await messageOf("empty.pth")).toMatchInlineSnapshot(`"empty.pth: is empty (0 bytes). Get the file again."`);
  expect(await messageOf("not_a_checkpoint.pth")).toMatchInlineSnapshot(
    `"not_a_checkpoint.pth: is neither a PyTorch (.pth) nor a safetensors file; it has 75 bytes and starts with "this is not a ch"."`,
  );
  expect(await messageOf("whole_module.pth")).toMatchInlineSnapshot(
    `"whole_module.pth: holds a whole pickled module (class mymodels.M), not a state dict; reading it would need its Python code. In Python, load it and torch.save(model.state_dict(), path)."`,
  );
  expect(await messageOf("malicious_os_system.pth")).toMatchInlineSnapshot(
    `"malicious_os_system.pth: the pickle names posix.system, which a state dict never needs; the file is refused and nothing was run. Do not load it in Python unless you trust who made it."`,
  );
  expect(await messageOf("malicious_eval_legacy.pth")).toMatchInlineSnapshot(
    `"malicious_eval_legacy.pth: the pickle names __builtin__.eval, which a state dict never needs; the file is refused and nothing was run. Do not load it in Python unless you trust who made it."`,
  );
  expect(await messageOf("st_truncated.safetensors")).toMatchInlineSnapshot(
    `"st_truncated.safetensors: its tensors need 732 bytes after the header, the file has 724. It is truncated; get it again."`,
  );
  expect(await messageOf("st_huge_header.safetensors")).toMatchInlineSnapshot(
    `"st_huge_header.safetensors: header length 1152921504606846976 exceeds the file (10 bytes); it is truncated or not safetensors."`,
  );
  expect(await messageOf("st_overlap.safetensors")).toMatchInlineSnapshot(
    `"st_overlap.safetensors: tensor "linear.bias": F32 [5] needs 20 bytes, its range 632 to 712 has 80. Get the file again."`,
  );
  expect(await messageOf("st_shape_mismatch.safetensors")).toMatchInlineSnapshot(
    `"st_shape_mismatch.safetensors: tensor "linear.bias": F32 [6] needs 24 bytes, its range 712 to 732 has 20. Get the file again."`,
  );
  expect(await messageOf("st_unknown_dtype.safetensors")).toMatchInlineSnapshot(
    `"st_unknown_dtype.safetensors: tensor "linear.bias": dtype F77 is unknown; known are F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL."`,
  );
  expect(await messageOf("st_bad_json.safetensors")).toMatchInlineSnapshot(
    `"st_bad_json.safetensors: the header is not valid JSON (SyntaxError: Unexpected end of JSON input). Get the file again."`,
  );
});

test("things that carry a checkpoint's name by mistake", async () => {
  const says = async (content: string) => (await failure(new Uint8Array(Buffer.from(content, "latin1")))).message;
  expect(await says("version https://git-lfs.github.com/spec/v1\noid sha256:…")).toMatchInlineSnapshot(
    `"model.pth: is a Git LFS pointer, not the file itself. Fetch it with \`git lfs pull\`."`,
  );
  expect(await says("<!DOCTYPE html><title>404</title>")).toMatchInlineSnapshot(
    `"model.pth: is a web page: the download was answered with an error page. Get the file again."`,
  );
  expect(await says("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03")).toMatchInlineSnapshot(
    `"model.pth: is compressed with gzip. Unpack it first."`,
  );
  expect(await says("\x80\x02}.")).toMatchInlineSnapshot(
    `"model.pth: is a pickle, but not one that torch.save wrote."`,
  );
});

test("which state dict is meant", async () => {
  const dict = (key: string) => `${text(key)}}${text("w")}${tensor()}s`;
  const two = await pthOf(`\x80\x02}(${dict("teacher")}${dict("student")}${text("epoch")}K\x03u.`);
  expect((await failure(two)).message).toMatchInlineSnapshot(
    `"model.pth: several of its keys hold tensors: teacher, student. Say which, on the command line with --key."`,
  );
  expect((await failure(two, undefined, { wrapper: "techer" })).message).toMatchInlineSnapshot(
    `"model.pth: holds no state dict under "techer"; there are teacher, student. Name another one."`,
  );
  expect([...(await open(two, undefined, { wrapper: "student" })).entries.keys()]).toEqual(["w"]);
  const ema = await pthOf(`\x80\x02}(${dict("model_ema")}${dict("model")}u.`);
  expect((await open(ema)).wrapper).toBe("model");
  expect((await open(ema)).others.get("model_ema.w")).toMatchObject({ dtype: "float32", shape: [2, 4] });
  expect((await open(ema, undefined, { wrapper: "model_ema" })).wrapper).toBe("model_ema");
  expect((await failure(await pthOf(`\x80\x02}${text("epoch")}K\x03s.`))).message).toMatchInlineSnapshot(
    `"model.pth: holds no state dict; its keys are epoch. Save model.state_dict()."`,
  );
});

test("module. is only taken off the front, and never makes two keys one", async () => {
  const keys = async (...names: string[]) => {
    const bytes = await pthOf(`\x80\x02}(${names.map((name) => text(name) + tensor()).join("")}u.`);
    return [...(await open(bytes)).entries.keys()];
  };
  expect(await keys("module.a", "module.b.module.c")).toEqual(["a", "b.module.c"]);
  expect(await keys("n_averaged", "module.a")).toEqual(["n_averaged", "a"]);
  expect(await keys("a", "b.module.c")).toEqual(["a", "b.module.c"]);
  expect(await keys("module.module.a")).toEqual(["module.a"]);
  await expect(keys("module.a", "a")).rejects.toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: model.pth: holds both "a" and "module.a". On the command line --prefix module. takes those; in the library read it with stripModulePrefix: false.]`,
  );
});

test("a view that leaves its storage", async () => {
  const says = async (parts: Parameters<typeof tensor>[0]) =>
    (await failure(await pthOf(`\x80\x02}${text("fc.w")}${tensor(parts)}s.`))).message;
  expect(await says({ offset: "K\x01" })).toMatchInlineSnapshot(
    `"model.pth: tensor "fc.w": float32 [2, 4] with strides [4, 1] at element 1 needs 36 bytes, its storage has 32. The file is damaged; get it again."`,
  );
  expect(await says({ strides: "(J\xff\xff\xff\xffK\x01t" })).toMatchInlineSnapshot(
    `"model.pth: tensor "fc.w": shape [2, 4], strides [-1, 1] and offset 0 make no tensor. The file is damaged; get it again."`,
  );
  expect(await says({ shape: "(K\x02t" })).toMatchInlineSnapshot(
    `"model.pth: tensor "fc.w": shape [2], strides [4, 1] and offset 0 make no tensor. The file is damaged; get it again."`,
  );
  expect(await says({ shape: "(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", strides: "(K\x00K\x00t" })).toMatchInlineSnapshot(
    `"model.pth: tensor "fc.w": float32 [2147483647, 2147483647] repeats 1 stored elements 4611686014132420600 times over, 18446744056529682000 bytes from a file of 420. Save a contiguous copy of it."`,
  );
});

test("a dtype that is not read", async () => {
  const storage = `(${text("storage")}ctorch\nComplexFloatStorage\n${text("0")}${text("cpu")}K\x04tQ`;
  const complex = tensor({ storage, shape: "K\x04\x85", strides: "K\x01\x85" });
  expect((await failure(await pthOf(stateDict(text("c") + complex)))).message).toMatchInlineSnapshot(
    `"model.pth: tensor "c" is of type torch.ComplexFloatStorage, which is not read. Save it as a dense tensor of a plain type."`,
  );
  // Beside the state dict it does not matter.
  const wrapped = `\x80\x02}(${text("model")}}${text("w")}${tensor()}s${text("fft")}${complex}u.`;
  expect((await open(await pthOf(wrapped))).others.get("fft")).toEqual({
    opaque: "tensor of type torch.ComplexFloatStorage",
  });
});
