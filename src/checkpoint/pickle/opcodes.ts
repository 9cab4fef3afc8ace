import { decodeUtf8, latin1 } from "../text.ts";
import { narrowed, type PickleHost, PickleMachine } from "./machine.ts";
import { Opaque, OrderedDict, type PickleValue } from "./values.ts";

type Instruction = (m: PickleMachine) => void;

/**
 * Reads one pickle (protocols 0 to 5) that starts at `start`. Names and calls go to `host`; nothing is executed.
 *
 * @returns the value and the offset after the pickle's STOP
 * @throws PickleEnd when `bytes` end first; RepmlpError `checkpoint/pickle` when it is malformed, `checkpoint/limit`
 *   when it asks for absurd amounts of work
 */
export function unpickle(
  bytes: Uint8Array<ArrayBuffer>,
  start: number,
  where: string,
  host: PickleHost,
): { value: PickleValue; end: number } {
  const machine: PickleMachine = new PickleMachine(bytes, start, where, host);
  for (;;) {
    const code = machine.next();
    if (code === STOP) break;
    const instruction = instructions[code];
    if (instruction === undefined) machine.fail(`unknown instruction 0x${code.toString(16).padStart(2, "0")}`);
    instruction(machine);
  }
  const value = machine.pop();
  if (machine.stack.length + machine.marks.length > 0) machine.fail("values are left over at the end");
  return { value, end: machine.position };
}

const STOP = ".".charCodeAt(0);

const integerLine = (m: PickleMachine): number | bigint => {
  const text = m.line();
  return /^[+-]?\d{1,1000}L?$/.test(text)
    ? narrowed(BigInt(text.replace(/^\+|L$/g, "")))
    : m.fail(`"${text.slice(0, 40)}" is not an integer`);
};

const index = (m: PickleMachine): number => Number(integerLine(m));

/** Protocol 0 writes strings as Python literals. */
function literalLine(m: PickleMachine): string {
  const [, quoted] = /^'(.*)'$|^"(.*)"$/.exec(m.line())?.filter((part) => part !== undefined) ?? [];
  if (quoted === undefined) m.fail("a string literal without quotes");
  return quoted.replace(/\\(x[0-9a-fA-F]{2}|.)/g, (_, code: string) =>
    code[0] === "x" ? String.fromCharCode(Number.parseInt(code.slice(1), 16)) : (escapes[code] ?? code),
  );
}

const escapes: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t" };

/** Python 2 strings are bytes: text where they are valid UTF-8 (as `torch.load` reads them), else the bytes. */
function python2String(m: PickleMachine, length: number): PickleValue {
  const raw = m.take(length);
  return decodeUtf8(raw) ?? raw;
}

/** Protocol 0 writes text as Latin-1 with `\\u` escapes for the rest. */
const escapedLine = (m: PickleMachine): string =>
  latin1(m.lineBytes()).replace(/\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})/g, (all, short?: string, long?: string) => {
    const code = Number.parseInt(short ?? long ?? "", 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : all;
  });

function floatLine(m: PickleMachine): number {
  const text = m.line();
  const value = { nan: Number.NaN, inf: Number.POSITIVE_INFINITY, "-inf": Number.NEGATIVE_INFINITY }[text];
  if (value !== undefined) return value;
  return /^[+-]?[\d.]+([eE][+-]?\d+)?$/.test(text) ? Number(text) : m.fail(`"${text.slice(0, 40)}" is not a number`);
}

/** Where `01` and `00` are the booleans of protocols 0 and 1. */
function intLine(m: PickleMachine): number | bigint | boolean {
  const start = m.position;
  const text = m.line();
  if (text === "00" || text === "01") return text === "01";
  m.position = start;
  return integerLine(m);
}

function build(m: PickleMachine): void {
  const state = m.pop();
  const target = m.top();
  // Attributes: of unknown classes, to be shown; of an OrderedDict, such as `_metadata`; Parameters' are not kept.
  if (target instanceof Opaque) target.state = state;
  if (target instanceof OrderedDict) target.attributes = state;
}

function dict(m: PickleMachine, pairs: PickleValue[]): void {
  m.push(m.container(new Map()));
  m.setItems(pairs);
}

const call = (m: PickleMachine, callable: PickleValue, args: PickleValue[]): void =>
  m.push(m.container(m.host.call(callable, args, m)));

function newObject(m: PickleMachine): void {
  const args = m.popTuple("constructor arguments");
  m.push(m.container(m.host.instance(m.pop(), args, m)));
}

/** One entry per instruction, by the character that Python's `pickletools` lists for it. */
const table: Readonly<Record<string, Instruction>> = {
  // Framing: lengths of frames are hints for buffering, nothing depends on them.
  "\x80": (m) => {
    const protocol = m.u8();
    if (protocol > 5) m.fail(`pickle protocol ${protocol}`);
  },
  "\x95": (m) => void m.u64(),

  // Constants.
  N: (m) => m.push(null),
  "\x88": (m) => m.push(true),
  "\x89": (m) => m.push(false),
  I: (m) => m.push(intLine(m)),
  L: (m) => m.push(integerLine(m)),
  J: (m) => m.push(m.i32()),
  K: (m) => m.push(m.u8()),
  M: (m) => m.push(m.u16()),
  "\x8a": (m) => m.push(m.integer(m.u8())),
  "\x8b": (m) => m.push(m.integer(m.u32())),
  F: (m) => m.push(floatLine(m)),
  G: (m) => m.push(m.f64()),
  S: (m) => m.push(literalLine(m)),
  T: (m) => m.push(python2String(m, m.u32())),
  U: (m) => m.push(python2String(m, m.u8())),
  V: (m) => m.push(escapedLine(m)),
  X: (m) => m.push(m.text(m.u32())),
  "\x8c": (m) => m.push(m.text(m.u8())),
  "\x8d": (m) => m.push(m.text(m.u64())),
  B: (m) => m.push(m.take(m.u32())),
  C: (m) => m.push(m.take(m.u8())),
  "\x8e": (m) => m.push(m.take(m.u64())),
  "\x96": (m) => m.push(m.take(m.u64())),

  // Stack and memo.
  "(": (m) => void m.marks.push(m.stack.length),
  "0": (m) => void (m.marks.at(-1) === m.stack.length ? m.marks.pop() : m.pop()),
  "1": (m) => void m.popMark(),
  "2": (m) => m.push(m.top()),
  g: (m) => m.recall(index(m)),
  h: (m) => m.recall(m.u8()),
  j: (m) => m.recall(m.u32()),
  p: (m) => m.remember(index(m)),
  q: (m) => m.remember(m.u8()),
  r: (m) => m.remember(m.u32()),
  "\x94": (m) => m.remember(m.memo.size),

  // Containers.
  ")": (m) => m.push(m.container([])),
  "]": (m) => m.push(m.container([])),
  "}": (m) => m.push(m.container(new Map())),
  "\x8f": (m) => m.push(m.container([])),
  t: (m) => m.push(m.popMark()),
  l: (m) => m.push(m.popMark()),
  "\x91": (m) => m.push(m.popMark()),
  d: (m) => dict(m, m.popMark()),
  "\x85": (m) => m.push(m.container([m.pop()])),
  "\x86": (m) => {
    const second = m.pop();
    m.push(m.container([m.pop(), second]));
  },
  "\x87": (m) => {
    const third = m.pop();
    const second = m.pop();
    m.push(m.container([m.pop(), second, third]));
  },
  a: (m) => m.append([m.pop()]),
  e: (m) => m.append(m.popMark()),
  "\x90": (m) => m.append(m.popMark()),
  s: (m) => {
    const value = m.pop();
    const key = m.pop();
    m.setItems([key, value]);
  },
  u: (m) => m.setItems(m.popMark()),

  // Names, calls and objects: all decided by the host.
  c: (m) => {
    const module = m.line();
    m.push(m.host.global(module, m.line()));
  },
  "\x93": (m) => {
    const name = m.popText("a name");
    m.push(m.host.global(m.popText("a module"), name));
  },
  R: (m) => {
    const args = m.popTuple("call arguments");
    call(m, m.pop(), args);
  },
  i: (m) => {
    const module = m.line();
    const callable = m.host.global(module, m.line());
    call(m, callable, m.popMark());
  },
  o: (m) => {
    const [callable = m.fail("an object without a class"), ...args] = m.popMark();
    call(m, callable, args);
  },
  "\x81": newObject,
  "\x92": (m) => {
    m.pop(); // keyword arguments: nothing is constructed, so nobody wants them
    newObject(m);
  },
  b: build,
  P: (m) => m.push(m.host.persistent(m.line(), m)),
  Q: (m) => m.push(m.host.persistent(m.pop(), m)),
};

const instructions: (Instruction | undefined)[] = [];
for (const [character, instruction] of Object.entries(table)) instructions[character.charCodeAt(0)] = instruction;
