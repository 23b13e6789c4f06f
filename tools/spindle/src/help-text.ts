/**
 * The program's help. Under the name of QEMU's program it has that program's shape, because scripts look there for
 * options and formats before they use them.
 */
import { driverRegistry } from "spindle";
import type { Command, OptionSpec } from "./command.ts";
import { COMMANDS } from "./command-table.ts";
import { programName, versionLine } from "./program-name.ts";

const NAME_COLUMN = 12;

export async function helpText(): Promise<string> {
  return programName() === "spindle" ? ownHelp() : await helpLikeQemuImg();
}

function ownHelp(): string {
  const commands = Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(NAME_COLUMN)}${summary}`);
  return [
    "Usage: spindle COMMAND [options] ...",
    "",
    "Virtual disk images: a block layer with live image streaming.",
    "",
    "Commands:",
    ...commands,
    `  ${"help".padEnd(NAME_COLUMN)}tell more about a command: spindle help COMMAND`,
    "",
    "  spindle --version tells the version.",
    "",
  ].join("\n");
}

async function helpLikeQemuImg(): Promise<string> {
  const names = Object.keys(COMMANDS).sort();
  const commands = await Promise.all(names.map(async (name) => syntaxLine(name, await COMMANDS[name]?.load())));
  return [
    versionLine().trimEnd(),
    "usage: qemu-img [standard options] command [command options]",
    "Disk image utility, in the place of QEMU's",
    "",
    "    '-h', '--help'       display this help and exit; behind a command, that command's",
    "    '-V', '--version'    output version information and exit",
    "    '-T', '--trace'      [[enable=]<pattern>][,events=<file>][,file=<file>]",
    "                         accepted; there are no trace events",
    "",
    "Command syntax:",
    ...commands,
    "",
    `Supported formats: ${driverRegistry().names().join(" ")}`,
    "",
  ].join("\n");
}

function syntaxLine(name: string, command: Command | undefined): string {
  const options = Object.entries(command?.options ?? {}).map(([long, spec]) => `[${optionSyntax(long, spec)}]`);
  return ["  ", name, " ", [...options, command?.operands].join(" ")].join("").trimEnd();
}

/** Qemu-img's options that have one letter have it alone. */
function optionSyntax(long: string, { short, value }: OptionSpec): string {
  if (short !== undefined) return value === undefined ? `-${short}` : `-${short} ${value}`;
  return value === undefined ? `--${long}` : `--${long}=${value}`;
}
