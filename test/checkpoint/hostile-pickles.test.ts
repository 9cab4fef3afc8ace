import { describe, expect, test } from "vitest";
import { concat, failure, fixture, open, pthOf, stateDict, tensor, text, u32 } from "./support.ts";

/** A call of a global with one string, by each of the ways a pickle has. */
const ways = {
  reduce: (module: string, name: string) => `c${module}\n${name}\n(${text("echo hi")}tR`,
  stackGlobal: (module: string, name: string) => `${text(module)}${text(name)}\x93(${text("echo hi")}tR`,
  inst: (module: string, name: string) => `(${text("echo hi")}i${module}\n${name}\n`,
  obj: (module: string, name: string) => `(c${module}\n${name}\n${text("echo hi")}o`,
};

describe("callables that are refused by name", () => {
  const refused = [
    ["os", "system"],
    ["posix", "system"],
    ["nt", "system"],
    ["subprocess", "Popen"],
    ["subprocess", "check_output"],
    ["builtins", "eval"],
    ["builtins", "exec"],
    ["__builtin__", "getattr"],
    ["builtins", "__import__"],
    ["builtins", "open"],
    ["runpy", "_run_code"],
    ["importlib", "import_module"],
    ["pickle", "loads"],
    ["_io", "FileIO"],
    ["socket", "create_connection"],
    ["webbrowser", "open"],
    ["pip", "main"],
    ["types", "FunctionType"],
    ["torch.serialization", "os.system"],
    ["torch.hub", "load"],
    ["torch.storage", "_load_from_bytes"],
    ["numpy.testing._private.utils", "runstring"],
    ["timeit", "timeit"],
    ["mypackage.tools", "rebuild"],
  ] as const;

  test.for(refused)("%s.%s", async ([module, name]) => {
    for (const [way, call] of Object.entries(ways)) {
      const error = await failure(await pthOf(stateDict(text("payload") + call(module, name))));
      expect(error, way).toMatchObject({ code: "checkpoint/refused", kind: "file" });
      expect(error.message, way).toContain(`${module.replace("__builtin__", "builtins")}.${name}`.split(".").at(-1));
    }
  });

  test("in the old container, and in a bare pickle of any protocol", async () => {
    const bare = `cos\nsystem\n(S'echo hi'\ntR.`;
    for (const pickle of [bare, `\x80\x02${bare}`, `\x80\x04${ways.stackGlobal("os", "system")}.`]) {
      const error = await failure(new Uint8Array(Buffer.from(pickle, "latin1")));
      expect(error).toMatchObject({ code: "checkpoint/refused", message: expect.stringContaining("os.system") });
    }
    expect((await failure(fixture("malicious_os_system_legacy.pth"))).message).toContain("posix.system");
  });

  test("by way of getattr", async () => {
    const get = (owner: string, name: string) => `c__builtin__\ngetattr\n${owner}${text(name)}\x86R`;
    for (const value of [
      get("ctorch.serialization\nos\n", "system"),
      get("cproject\nThing\n", "__globals__"),
      get("K\x01", "bit_length"),
      `${get("cproject\nThing\n", "run")}(${text("echo hi")}tR`,
    ])
      expect((await failure(await pthOf(stateDict(text("x") + value)))).code).toBe("checkpoint/refused");
  });

  test("even when only named, and when an object is made without a call", async () => {
    for (const value of ["cos\nsystem\n", "csubprocess\nPopen\n)\x81", "csubprocess\nPopen\n)}\x92"])
      expect((await failure(await pthOf(stateDict(text("x") + value)))).code).toBe("checkpoint/refused");
  });
});

describe("objects of unknown classes do no harm", () => {
  const others = async (value: string) =>
    Object.fromEntries((await open(await pthOf(stateDict(text("x") + value)))).others);

  test.for([
    {
      name: "argparse.Namespace",
      value: `cargparse\nNamespace\n)\x81}(${text("lr")}G\x3f\xb9\x99\x99\x99\x99\x99\x9a${text("arch")}${text("A0")}ub`,
      expected: { "x.lr": 0.1, "x.arch": "A0" },
    },
    { name: "an enum", value: "cproject.config\nMode\nK\x03\x85R", expected: { x: { opaque: "project.config.Mode" } } },
    {
      name: "an enum, as Python 3.11 writes it",
      value: `c__builtin__\ngetattr\ncproject.config\nMode\n${text("train")}\x86R`,
      expected: { x: { opaque: "project.config.Mode.train" } },
    },
    {
      name: "a path",
      value: `cpathlib\nPosixPath\n(${text("/")}${text("data")}tR`,
      expected: { x: { opaque: "pathlib.PosixPath" } },
    },
    {
      name: "a defaultdict",
      value: `ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R${text("k")}K\x07s`,
      expected: { "x.k": 7 },
    },
    {
      name: "a numpy float64",
      value: `cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(${text("f8")}K\x00K\x01tR(K\x03${text("<")}NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbc_codecs\nencode\n(${text("\0\0\0\0\0\xccS@")}${text("latin1")}tRtR`,
      expected: { x: 79.1875 },
    },
    { name: "a class itself", value: "cmmcv.runner\nHook\n", expected: { x: { opaque: "mmcv.runner.Hook" } } },
    { name: "a torch.Size", value: "ctorch\nSize\n(K\x02K\x03t\x85R", expected: { "x.0": 2, "x.1": 3 } },
    { name: "a device", value: `ctorch\ndevice\n${text("cuda")}K\x01\x86R`, expected: { x: "cuda:1" } },
  ])("$name", async ({ value, expected }) => {
    expect(await others(value)).toEqual(expected);
  });

  test("a state dict may be of a subclass of dict", async () => {
    const pickle = `\x80\x02cproject\nParamDict\n)\x81(${text("w")}${tensor()}u.`;
    expect([...(await open(await pthOf(pickle))).entries.keys()]).toEqual(["w"]);
  });

  test("old protocols write numbers and strings as text", async () => {
    const pickle = `(dp0\nVw\np1\n${tensor().replaceAll("\x89", "I00\n")}sVn\nI-7\nsVl\nL12345678901234567890L\nsVf\nF0.5\nsVs\nS'a\\'\\x41\\n'\nsVu\nV\\u00e9\xe9\ns.`;
    expect(Object.fromEntries((await open(await pthOf(pickle))).others)).toEqual({
      n: -7,
      l: 12345678901234567890n,
      f: 0.5,
      s: "a'A\n",
      u: "éé",
    });
  });
});

describe("pickles that ask for too much", () => {
  test("lists nested a hundred thousand deep", async () => {
    const deep = "]".repeat(100_000) + "a".repeat(99_999);
    const checkpoint = await open(await pthOf(stateDict(text("deep") + deep)));
    expect([...checkpoint.others.values()]).toEqual([{ opaque: "nested deeper than 24" }]);
  });

  test("a list that contains itself, and lists of lists of lists …", async () => {
    const self = "]q\x00h\x00a";
    // Ten levels, each a list of ten times the level below: 10^10 values in 400 bytes.
    const laughs = `]q\x01K\x01a${Array.from({ length: 10 }, (_, i) => `](${`h${String.fromCharCode(i + 1)}`.repeat(10)}eq${String.fromCharCode(i + 2)}`).join("")}`;
    const pickle = await pthOf(stateDict(text("self") + self + text("laughs") + laughs));
    const checkpoint = await open(pickle);
    expect(checkpoint.others.size).toBeLessThanOrEqual(50_001);
    expect(checkpoint.others.get("…")).toEqual({ opaque: "the file holds more values than are listed" });
  });

  test.for([
    {
      name: "a string copied over and over",
      pickle: `${text("a".repeat(100_000))}q\x000${`c_codecs\nencode\nh\x00${text("latin1")}\x86R0`.repeat(700)}N`,
    },
    {
      name: "a list turned into dicts over and over",
      pickle: `(${Array.from({ length: 20_000 }, (_, i) => `J${u32(i)}N\x86`).join("")}lq\x000${"ccollections\nOrderedDict\nh\x00\x85R0".repeat(1000)}N`,
    },
    { name: "a million containers", pickle: `${"}0".repeat(1_100_000)}N` },
    { name: "an integer of a megabyte", pickle: `\x8b${u32(1 << 20)}${"\xff".repeat(1 << 20)}` },
  ])("$name", { timeout: 60_000 }, async ({ pickle }) => {
    const bytes = await pthOf(`\x80\x02${pickle}.`);
    expect((await failure(bytes)).code).toBe("checkpoint/limit");
  });

  test("a tensor that repeats one element a trillion times", async () => {
    const huge = tensor({ shape: "(J\x00\x00\x10\x00J\x00\x00\x10\x00t", strides: "(K\x00K\x00t" });
    expect((await failure(await pthOf(stateDict(text("x") + huge)))).code).toBe("checkpoint/limit");
  });
});

describe("pickles that are malformed", () => {
  test.for([
    { name: "an unknown instruction", pickle: "\xff." },
    { name: "an extension code", pickle: "\x82\x01." },
    { name: "protocol 9", pickle: "\x80\x09}." },
    { name: "an empty stack", pickle: "a." },
    { name: "nothing left at the end", pickle: "." },
    { name: "values left at the end", pickle: "}}." },
    { name: "a pop below a mark", pickle: "}(0000." },
    { name: "no mark", pickle: "}u." },
    { name: "an odd number of items", pickle: `}(${text("k")}u.` },
    { name: "the same key twice", pickle: `}(${text("k")}N${text("k")}Nu.` },
    { name: "a memo entry that was never stored", pickle: "h\x07." },
    { name: "a call of a dict", pickle: "})R." },
    { name: "arguments that are no tuple", pickle: "ccollections\nOrderedDict\nNR." },
    { name: "items put into a number", pickle: `K\x01${text("k")}Ns.` },
    { name: "text that is not UTF-8", pickle: `X${u32(2)}\xc3\x28.` },
    { name: "an integer that is none", pickle: "I1x\n." },
    { name: "a float that is none", pickle: "F1,5\n." },
    { name: "a reference that is none", pickle: "K\x01Q." },
    { name: "a reference of another kind", pickle: `${text("module")}\x85Q.` },
    { name: "bytes after the end", pickle: "}.}" },
    { name: "a storage that is none", pickle: `}${text("w")}${tensor({ storage: "N" })}s.` },
    { name: "a shape of strings", pickle: `}${text("w")}${tensor({ shape: `(${text("2")}K\x04t` })}s.` },
    { name: "a tuple as key of a tensor", pickle: `}K\x01\x85${tensor()}s.` },
  ])("$name", async ({ pickle }) => {
    expect(await failure(await pthOf(pickle))).toMatchObject({
      kind: "file",
      code: expect.stringContaining("checkpoint/"),
    });
  });

  test("a pickle cut anywhere", async () => {
    const whole = stateDict(`${text("epoch")}J\x01\x02\x03\x04`);
    for (let length = 0; length < whole.length; length++)
      expect((await failure(await pthOf(whole.slice(0, length)))).message).toMatch(/truncated or damaged|needs bytes/);
  });
});

test("an old file whose pickles are longer than the first window", async () => {
  // plain_legacy.pth with half a megabyte of text put beside its state dict: the fourth pickle is `{…}`, opened anew.
  const bytes = fixture("module_prefix_wrapped_legacy.pth");
  const start = Buffer.from(bytes).indexOf(Buffer.from(`}q\x00X\x0a\x00\x00\x00state_dict`, "latin1"));
  const note = Buffer.from(`(${text("note")}${text("n".repeat(500_000))}u`, "latin1");
  const longer = concat(bytes.subarray(0, start + 3), note, bytes.subarray(start + 3));
  const checkpoint = await open(longer);
  expect(checkpoint.entries.size).toBe(9);
  expect(String(checkpoint.others.get("note"))).toHaveLength(500_000);
  for (const key of checkpoint.entries.keys())
    expect((await checkpoint.entries.get(key)!.read()).data).toEqual(
      (await open(bytes)).entries.get(key)!.readSync().data,
    );
});

describe("objects beside the weights are opaque, and the weights are read", () => {
  const files = ["objects_2.pth", "objects_4.pth", "objects_2_legacy.pth", "objects_4_legacy.pth"];
  test.for(files)("%s, as PyTorch wrote it", async (name) => {
    const { entries, wrapper, others } = await open(fixture(name), name);
    expect([wrapper, [...entries.keys()]]).toEqual(["state_dict", ["w"]]);
    expect([...(await entries.get("w")!.read()).toFloat64()]).toEqual([0, 1, 2, 3, 4, 5]);
    const of = (key: string) => [...others].filter(([path]) => path === key || path.startsWith(`${key}.`));
    expect(of("extra.range")).toEqual([
      ["extra.range", { opaque: "builtins.range".replace(/range/, name.includes("2") ? "xrange" : "range") }],
    ]);
    expect(of("extra.regex")).toEqual([["extra.regex", { opaque: "re._compile" }]]);
    expect(of("extra.function")).toEqual([["extra.function", { opaque: "builtins.len" }]]);
    for (const key of ["random_state", "generator", "optimizer", "scheduler", "module", "iterator", "masked", "logger"])
      expect(of(`extra.${key}`).length, key).toBeGreaterThan(0);
    expect(others.get("extra.optimizer.param_groups.0.momentum")).toBe(0.9);
  });

  test.for([
    { what: "an iterator", call: "c__builtin__\niter\n(]K\x01atR" },
    { what: "a range of Python 2", call: "c__builtin__\nxrange\n(K\x00K\x03K\x01tR" },
    { what: "a pattern", call: `cre\n_compile\n(${text("a.b")}K\x20tR` },
    { what: "numpy's random state", call: `cnumpy.random._pickle\n__randomstate_ctor\n(${text("MT19937")}tR` },
    { what: "an object made with keywords", call: `ccopy_reg\n__newobj_ex__\n(cproject\nThing\n)}tR` },
    { what: "a time", call: "ctime\nstruct_time\n((K\x01t}tR" },
    { what: "a masked array", call: "cnumpy.ma.core\n_mareconstruct\n(K\x01tR" },
  ])("$what", async ({ call }) => {
    const { entries, others } = await open(await pthOf(stateDict(text("x") + call)));
    expect(entries.size).toBeGreaterThan(0);
    expect(others.get("x")).toMatchObject({ opaque: expect.stringMatching(/\w/) });
  });

  test.for(["whole_module_legacy.pth", "wrapped_module_legacy.pth"])("%s is refused with its class", async (name) => {
    expect(await failure(fixture(name), name)).toMatchObject({
      code: "checkpoint/whole-module",
      message: expect.stringContaining("(class torch.nn.modules.activation.ReLU)"),
    });
  });

  test.for([
    "eval",
    "exec",
    "compile",
    "open",
    "__import__",
    "input",
    "setattr",
    "delattr",
    "globals",
    "vars",
    "breakpoint",
  ])("but %s of Python's own refuses the file, called or named, also inside of one that does no harm", async (name) => {
    for (const value of [
      `c__builtin__\n${name}\n`,
      `c__builtin__\nmap\n(c__builtin__\n${name}\n]tR`,
      `cfunctools\npartial\n(c__builtin__\n${name}\ntR`,
    ])
      expect((await failure(await pthOf(stateDict(text("x") + value)))).code).toBe("checkpoint/refused");
  });
});
