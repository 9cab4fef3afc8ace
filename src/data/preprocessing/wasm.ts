/** The parts of WebAssembly's binary format that a small kernel needs: instructions as bytes, functions as a module. */

/** Encoded instructions, nested as they were put together. */
export type Code = readonly (number | Code)[];

const bytesOf = (code: Code): number[] => code.flatMap((part) => (typeof part === "number" ? [part] : bytesOf(part)));

/** LEB128, in which the format writes all whole numbers: seven bits per byte, the lowest first. */
function leb128(value: number, isLast: (rest: number, low: number) => boolean): number[] {
  const low = value & 0x7f;
  const rest = value >> 7;
  return isLast(rest, low) ? [low] : [low | 0x80, ...leb128(rest, isLast)];
}
const unsigned = (value: number): Code => leb128(value, (rest) => rest === 0);
const signed = (value: number): Code => leb128(value, (rest, low) => rest === (low & 0x40 ? -1 : 0));

const types = { i32: 0x7f, v128: 0x7b } as const;
type ValueType = keyof typeof types;

/** A parameter or local of a function. */
export interface Variable {
  readonly get: Code;
  /** Pops the new value. */
  readonly set: Code;
}

const vector = (opcode: number): Code => [0xfd, unsigned(opcode)];
/** A load or store: no promise of alignment, no offset. */
const access = (code: Code): Code => [code, 0, 0];

/** Instructions by their names in the specification. */
export const op = {
  i32: {
    const: (value: number): Code => [0x41, signed(value)],
    load: access([0x28]),
    load8U: access([0x2d]),
    store: access([0x36]),
    add: [0x6a] as Code,
    shl: [0x74] as Code,
    ltU: [0x49] as Code,
  },
  v128: {
    const: (bytes: readonly number[]): Code => [vector(0x0c), bytes],
    load: access(vector(0x00)),
    load32Splat: access(vector(0x09)),
    load32Zero: access(vector(0x5c)),
    store: access(vector(0x0b)),
    store8First: [access(vector(0x58)), 0] as Code,
    store32First: [access(vector(0x5a)), 0] as Code,
  },
  i8x16: { swizzle: vector(0x0e), narrowI16x8U: vector(0x66) },
  i16x8: { extendLowU: vector(0x89), extendHighU: vector(0x8a), narrowI32x4S: vector(0x85) },
  i32x4: {
    splat: vector(0x11),
    extractLane: (lane: number): Code => [vector(0x1b), lane],
    replaceLane: (lane: number): Code => [vector(0x1c), lane],
    extendLowU: vector(0xa9),
    extendHighU: vector(0xaa),
    shrS: vector(0xac),
    add: vector(0xae),
    mul: vector(0xb5),
  },
} as const;

/** `body`, at least once, and again as long as `condition` leaves something other than 0. */
export const repeatWhile = (condition: Code, body: Code): Code => [0x03, 0x40, body, condition, 0x0d, 0, 0x0b];

/** A function that takes i32 and gives nothing back. */
export interface KernelFunction {
  readonly parameters: number;
  readonly locals: readonly ValueType[];
  readonly body: Code;
}

/** A function of `parameters` numbers; `body` is given the parameters, then the locals. */
export function kernelFunction(
  parameters: number,
  locals: readonly ValueType[],
  body: (...variables: Variable[]) => Code,
): KernelFunction {
  const variables = Array.from({ length: parameters + locals.length }, (_, i) => ({
    get: [0x20, unsigned(i)],
    set: [0x21, unsigned(i)],
  }));
  return { parameters, locals, body: body(...variables) };
}

const sized = (code: Code): Code => {
  const bytes = bytesOf(code);
  return [unsigned(bytes.length), bytes];
};
const list = (items: readonly Code[]): Code => [unsigned(items.length), items];
const named = (name: string): Code => sized([...new TextEncoder().encode(name)]);
const section = (id: number, content: Code): Code => [id, sized(content)];

/** A module that exports these functions and its `memory`, which is one page to begin with. */
export function kernelModule(functions: Readonly<Record<string, KernelFunction>>): Uint8Array<ArrayBuffer> {
  const names = Object.keys(functions);
  const all = Object.values(functions);
  const signatures = all.map(({ parameters }) => [0x60, list(Array(parameters).fill([types.i32])), 0]);
  const bodies = all.map(({ locals, body }) => sized([list(locals.map((type) => [1, types[type]])), body, 0x0b]));
  return Uint8Array.from(
    bytesOf([
      [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
      section(1, list(signatures)),
      section(3, list(all.map((_, i) => unsigned(i)))),
      section(5, list([[0, 1]])),
      section(7, list([[named("memory"), 2, 0], ...names.map((name, i): Code => [named(name), 0, unsigned(i)])])),
      section(10, list(bodies)),
    ]),
  );
}
