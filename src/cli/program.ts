import { Argument, Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { nearest } from "../errors.ts";
import { exitCodes, failureOf, inFlags, trail } from "./failure.ts";
import type { Streams } from "./io.ts";
import type { CommandSpec, OptionSpec } from "./spec.ts";
import { type Call, type CommandName, commands, type Run } from "./table.ts";

/** Where the work of each command is; loaded when it is run. */
export type Loaders = { readonly [N in CommandName]: () => Promise<{ readonly run: Run<N> }> };

interface Parsed {
  readonly name: CommandName;
  readonly args: Readonly<Record<string, unknown>>;
  readonly options: Readonly<Record<string, unknown>>;
}

/**
 * Runs one command line and returns the exit code: 0 done, 1 the work or a check failed, 2 the command line is wrong,
 * 130 interrupted.
 */
export async function runProgram(
  argv: readonly string[],
  loaders: Loaders,
  version: () => string,
  streams: Streams = process,
): Promise<number> {
  const parsed = parse(argv, version, streams);
  return typeof parsed === "number" ? parsed : execute(parsed, loaders, streams);
}

async function execute({ name, args, options }: Parsed, loaders: Loaders, streams: Streams): Promise<number> {
  const { json = false, quiet = false, ...own } = options as { json?: boolean; quiet?: boolean };
  const [{ takeInterrupts }, { createIo }] = await Promise.all([import("./interrupt.ts"), import("./io.ts")]);
  const interrupt = takeInterrupts((text) => io.note(text));
  const advice = (text: string): string => inFlags(text, commands[name].options);
  const io = createIo(streams, { json, quiet, advice }, interrupt.watch);
  try {
    const { run } = await loaders[name]();
    const code = await run({ args, options: own, io } as unknown as Call<CommandName> as never);
    return interrupt.exitCode ?? code ?? exitCodes.done;
  } catch (error) {
    if (interrupt.exitCode === undefined) return fail(error, json, streams, advice);
    report("interrupted", "stopped; nothing was left half-written.", json, streams);
    return interrupt.exitCode;
  } finally {
    interrupt.release();
  }
}

function fail(error: unknown, json: boolean, streams: Streams, advice = (text: string): string => text): number {
  const { exitCode, code, message } = failureOf(error);
  report(code, advice(message), json, streams);
  if (process.env.REPMLP_DEBUG === "1") streams.stderr.write(`${trail(error)}\n`);
  return exitCode;
}

/** The sentence goes to stderr in any case: stdout may lead into a file. */
function report(code: string, message: string, json: boolean, { stdout, stderr }: Streams): void {
  if (json) stdout.write(`${JSON.stringify({ error: { code, message } })}\n`);
  stderr.write(`error: ${message}\n`);
}

/** What a command line asks for, or an exit code when it asks for help or is wrong. */
function parse(argv: readonly string[], version: () => string, streams: Streams): Parsed | number {
  let parsed: Parsed | undefined;
  const program = buildProgram(argv, streams, (found) => {
    parsed = found;
  });
  if (argv[0] === "--version" || argv[0] === "-V") {
    streams.stdout.write(`${version()}\n`);
    return exitCodes.done;
  }
  if (argv.length === 0) {
    program.outputHelp({ error: true });
    return exitCodes.usage;
  }
  try {
    program.parse(argv, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) return fail(error, argv.includes("--json"), streams);
    if (error.exitCode === 0) return exitCodes.done;
    const code = `cli/${kebab(error.code.replace("commander.", ""))}`;
    report(code, sentence(error, argv), argv.includes("--json"), streams);
    return exitCodes.usage;
  }
  return parsed ?? exitCodes.usage;
}

const kebab = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

/** Commander's message as one sentence, with the nearest names or the place to look. */
function sentence({ message, code }: CommanderError, argv: readonly string[]): string {
  const [head, hint] = message
    .trim()
    .replace(/^error: /, "")
    .split(/\n\(?/);
  const unknown = code === "commander.unknownCommand";
  const command = argv[0] in commands ? `${argv[0]} ` : "";
  const advice = unknown ? `Did you mean ${nearest(argv[0], Object.keys(commands)).join(", ")}?` : hint;
  return `${head.replace(/\.$/, "")}. ${advice?.replace(/\)$/, "") ?? `See repmlp ${command}--help.`}`;
}

function buildProgram(argv: readonly string[], streams: Streams, found: (parsed: Parsed) => void): Command {
  const program = new Command("repmlp");
  program
    .description("Structural re-parameterization: train with branches, merge exactly, run anywhere ONNX Runtime does.")
    .option("-V, --version", "print the version")
    .helpOption("-h, --help", "show this, or the help of a command")
    .addHelpCommand(new Command("help").argument("[command]").summary("show the help of a command").helpGroup("Other:"))
    .configureHelp({ subcommandTerm: (c) => c.name() })
    .addHelpText("before", examples(firstSteps))
    .exitOverride()
    .configureOutput({
      writeOut: (text) => streams.stdout.write(text),
      writeErr: (text) => streams.stderr.write(text),
      outputError: () => {}, // told by report()
    });
  for (const [name, spec] of Object.entries(commands) as [CommandName, CommandSpec][]) {
    const made = new Command(name).summary(spec.summary).helpGroup(`${spec.group}:`);
    // Arguments and options of fourteen commands take longer than the rest; the list of commands shows none of them.
    if (argv.includes(name)) completeCommand(made, name, spec, found);
    program.addCommand(made.copyInheritedSettings(program));
  }
  return program;
}

function completeCommand(made: Command, name: CommandName, spec: CommandSpec, found: (parsed: Parsed) => void): void {
  made.description(spec.description ?? `${spec.summary[0].toUpperCase()}${spec.summary.slice(1)}.`);
  made.addHelpText("before", examples(spec.examples));
  const names = Object.keys(spec.args);
  for (const [arg, { kind, help }] of Object.entries(spec.args))
    made.addArgument(
      new Argument(kind === "required" ? `<${arg}>` : kind === "many" ? `<${arg}...>` : `[${arg}]`, help),
    );
  for (const option of Object.values(spec.options)) {
    made.addOption(buildOption(option));
    if (option.opposite) made.addOption(new Option(option.flags.replace("--", "--no-"), option.opposite));
  }
  if (spec.json !== false) made.option("--json", "print results (and errors) as JSON");
  made.option("--quiet", "print nothing but results and errors");
  made.action((...values: unknown[]) => {
    const args = Object.fromEntries(names.map((arg, i) => [arg, values[i]]));
    const off = Object.entries(spec.options).flatMap(([key, o]) => (o.default === false ? [[key, false]] : []));
    found({ name, args, options: { ...Object.fromEntries(off), ...(values[names.length] as Parsed["options"]) } });
  });
}

function buildOption({ flags, help, parse, expects, choices, default: value, repeats }: OptionSpec<unknown>): Option {
  const option = new Option(flags, help);
  // What is off unless given needs no "(default: false)".
  if (value !== undefined && value !== false) option.default(value, repeats ? "none" : undefined);
  if (choices) option.choices(choices);
  if (repeats) option.argParser((given: string, before: string[]) => [...before, given]);
  if (parse)
    option.argParser((given: string) => {
      const result = parse(given);
      if (result === undefined) throw new InvalidArgumentError(`Expected ${expects}.`);
      return result;
    });
  return option;
}

const firstSteps: CommandSpec["examples"] = [
  ["repmlp demo", "train, convert, verify, measure and report, in about two minutes"],
  ["repmlp convert train.pth deploy.safetensors", "merge the branches of a trained network"],
  ["repmlp summary RepMLP-Res50-light-224", "layers of a network in both forms"],
];

function examples(list: CommandSpec["examples"]): string {
  return `Examples:\n${list.map(([line, does]) => `  ${line}\n      ${does}`).join("\n")}\n`;
}
