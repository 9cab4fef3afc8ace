import { refuse } from "../file-error.ts";
import { latin1Bytes } from "../pickle/latin1-bytes.ts";
import type { PickleHost, PickleTask } from "../pickle/machine.ts";
import { Global, kindOf, Opaque, OrderedDict, type PickleValue } from "../pickle/values.ts";
import { shortened } from "../text.ts";
import { numpyScalar } from "./numpy-scalar.ts";
import { TensorRef, UnreadableTensor } from "./values.ts";

/**
 * Decides what names and calls of a PyTorch pickle mean. Known functions give our own values; objects of unknown
 * classes become opaque values; a call of any other function, and any name of a module that can run code, refuses the
 * file by that name. Names are compared, never looked up, so nothing can be executed in either case.
 *
 * @param where       the file, for messages
 * @param persistent  gives the value of a reference to a storage
 */
export function torchHost(where: string, persistent: PickleHost["persistent"]): PickleHost {
  return {
    format: "a PyTorch checkpoint",
    persistent,
    global(module, name) {
      if (forbids(module, name)) refuseName(where, "names", `${module}.${name}`);
      return new Global(`${renamed[module] ?? module}.${name}`);
    },
    call(callable, args, task) {
      if (!(callable instanceof Global)) return task.fail(`${kindOf(callable)} is called`);
      const { path } = callable;
      const known = callables.get(path);
      if (known) return known(args, task);
      if (path === "builtins.getattr") return memberName(where, args);
      if (unreadable.test(path)) return new UnreadableTensor(`made by ${path}`);
      if (harmless.has(path) || namesClass(path)) return new Opaque(path, args);
      return refuseName(where, "calls", path);
    },
    instance(type, args, task) {
      if (!(type instanceof Global)) return task.fail(`an object of ${kindOf(type)}`);
      return type.path === "collections.OrderedDict" ? new OrderedDict() : new Opaque(type.path, args);
    },
  };
}

/**
 * `getattr(Class, "MEMBER")` is how Python 3.11 writes members of an enum: the name of that member. On anything but a
 * class it is a way to what lies hidden in a module, and refused.
 */
function memberName(where: string, [owner, name]: PickleValue[]): PickleValue {
  if (!(owner instanceof Global) || !namesClass(owner.path) || typeof name !== "string" || name.startsWith("__"))
    return refuseName(where, "calls", "builtins.getattr");
  return new Global(`${owner.path}.${name}`);
}

type Callable = (args: PickleValue[], task: PickleTask) => PickleValue;

const rebuildTensor: Callable = ([storage, offset, shape, strides]) => new TensorRef(storage, offset, shape, strides);

/** What an item of a Map takes, roughly. */
const DICT_ITEM_BYTES = 64;

const orderedDict: Callable = ([pairs = []], task) => {
  if (!Array.isArray(pairs)) return task.fail(`an OrderedDict is made of ${kindOf(pairs)}`);
  task.charge(pairs.length * DICT_ITEM_BYTES);
  const dict = new OrderedDict();
  for (const pair of pairs) {
    if (!Array.isArray(pair) || pair.length !== 2) return task.fail(`an OrderedDict item is ${kindOf(pair)}`);
    if (dict.has(pair[0])) return task.fail(`an OrderedDict has ${kindOf(pair[0])} twice`);
    dict.set(pair[0], pair[1]);
  }
  return dict;
};

/** A tensor subclass, or a tensor with Python attributes: `(function, class, args, state)`. */
const rebuildFromType: Callable = ([rebuild, , args], task) =>
  rebuild instanceof Global && rebuild.path.startsWith("torch._utils.") && Array.isArray(args)
    ? (callables.get(rebuild.path)?.(args, task) ?? new UnreadableTensor(`made by ${rebuild.path}`))
    : new UnreadableTensor(`made by ${kindOf(rebuild)}`);

const first: Callable = ([value = []]) => value;

/** An object of a class, by the class's name. */
const opaqueOf = (type: PickleValue | undefined, args: readonly PickleValue[] = []): Opaque =>
  new Opaque(type instanceof Global ? type.path : kindOf(type), args);

/** The functions whose meaning the reader knows; it is carried out here, in terms of our own values. */
const callables: ReadonlyMap<string, Callable> = new Map<string, Callable>([
  ["collections.OrderedDict", orderedDict],
  ["torch._utils._rebuild_tensor", rebuildTensor],
  ["torch._utils._rebuild_tensor_v2", rebuildTensor],
  [
    "torch._utils._rebuild_tensor_v3",
    ([storage, offset, shape, strides, , , dtype]) => new TensorRef(storage, offset, shape, strides, dtype),
  ],
  ["torch._utils._rebuild_parameter", first],
  ["torch._utils._rebuild_parameter_with_state", first],
  ["torch._tensor._rebuild_from_type", rebuildFromType],
  ["torch._tensor._rebuild_from_type_v2", rebuildFromType],
  ["torch.Size", first],
  ["torch.device", ([type, index]) => (index === undefined ? type : `${String(type)}:${String(index)}`)],
  ["_codecs.encode", latin1Bytes],
  ["builtins.set", first],
  ["builtins.frozenset", first],
  ["numpy.core.multiarray.scalar", ([type, bytes]) => numpyScalar(type, bytes)],
  ["numpy._core.multiarray.scalar", ([type, bytes]) => numpyScalar(type, bytes)],
  ["copyreg._reconstructor", ([type]) => opaqueOf(type)],
  ["copyreg.__newobj__", ([type, ...args]) => opaqueOf(type, args)],
  ["copyreg.__newobj_ex__", ([type]) => opaqueOf(type)],
]);

/** Makers of tensors that have no dense values in the file. */
const unreadable = /^torch\._utils\._rebuild_(qtensor|sparse|meta|nested|wrapper|device|xla|mlc|ort|hpu)/;

/** Functions and lower-case classes that only describe a value; what they make stays opaque. */
const harmless = new Set(
  [
    "builtins: bool bytearray bytes complex dict float int list object range xrange slice str tuple",
    "builtins: enumerate iter map filter reversed zip",
    "itertools: chain count cycle ifilter imap islice izip product repeat zip_longest",
    "collections: defaultdict deque",
    "array: array _array_reconstructor",
    "datetime: date datetime time timedelta timezone",
    "time: struct_time",
    "zoneinfo: ZoneInfo._unpickle",
    "re: _compile compile",
    "logging: getLogger",
    "numpy: dtype ndarray core.multiarray._reconstruct _core.multiarray._reconstruct",
    "numpy: core.numeric._frombuffer _core.numeric._frombuffer core._ufunc_reconstruct _core._ufunc_reconstruct",
    "numpy: ma.core._mareconstruct core.records.record recarray",
    "numpy.random: _pickle.__randomstate_ctor _pickle.__generator_ctor _pickle.__bit_generator_ctor __RandomState_ctor",
    "functools: partial",
    "torch.serialization: _get_layout",
  ].flatMap((line) => {
    const [module, names] = line.split(": ");
    return names.split(" ").map((name) => `${module}.${name}`);
  }),
);

/** Python writes classes with a capital; the worst that a wrong guess does is an opaque value. */
const namesClass = (path: string): boolean => /(^|\.)_*[A-Z]\w*$/.test(path);

/**
 * Modules that a state dict has no business with: they run code, load it, or reach files, processes and the network.
 * Naming anything in them is enough to refuse the file, called or not: it is not to be trusted.
 */
const forbidden = new Set(
  (
    "os posix nt posixpath ntpath subprocess _posixsubprocess commands popen2 pty sys shutil io _io importlib imp " +
    "zipimport pkgutil runpy codeop ctypes _ctypes cffi marshal pickle _pickle cPickle dill cloudpickle shelve " +
    "multiprocessing threading _thread asyncio concurrent socket _socket webbrowser urllib urllib2 httplib http requests " +
    "ftplib smtplib telnetlib xmlrpc pip pdb bdb operator _operator"
  ).split(" "),
);

/**
 * Python's built-in types, exceptions and functions that only compute, and `getattr` for `memberName`; not `eval`,
 * `exec`, `open` and the like.
 */
const harmlessBuiltins = new Set(
  (
    "bool bytearray bytes complex dict enumerate filter float frozenset getattr int iter list long map object range " +
    "reversed set slice str tuple type unicode xrange zip abs all any divmod hash len max min pow repr round sorted sum"
  ).split(" "),
);

/** Where Python 2 names differ. */
const renamed: Readonly<Record<string, string>> = { __builtin__: "builtins", copy_reg: "copyreg" };

function forbids(module: string, name: string): boolean {
  if (forbidden.has(module.split(".")[0])) return true;
  if (module === "builtins" || module === "__builtin__") return !harmlessBuiltins.has(name) && !/^[A-Z]\w*$/.test(name);
  if (module === "types") return /^(Function|Lambda|Code|Method)Type$/.test(name);
  // A dotted name reaches into what a module imported: "torch.serialization" and "os.system".
  return name.split(".").some((part, i, all) => i < all.length - 1 && forbidden.has(part));
}

function refuseName(where: string, verb: "names" | "calls", path: string): never {
  refuse(
    "refused",
    `${where}: the pickle ${verb} ${shortened(path)}, which a state dict never needs; the file is refused and nothing ` +
      "was run. Do not load it in Python unless you trust who made it.",
  );
}
