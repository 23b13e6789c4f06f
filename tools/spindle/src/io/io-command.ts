/** How a command of the `qemu-io` shell is described. All commands stand in command-table.ts. */
import type { Getopt } from "./getopt.ts";
import type { IoImage } from "./io-image.ts";
import type { IoShell } from "./io-shell.ts";

export interface CommandInfo {
  readonly name: string;
  readonly shortName?: string;
  /** Its arguments as the help shows them. */
  readonly synopsis: string;
  /** What it does, in one line. */
  readonly summary: string;
  /** More of it, for `help COMMAND`: lines. */
  readonly details?: readonly string[];
  readonly leastArguments?: number;
  /** Infinity when there may be any number; as many as the least when absent. */
  readonly mostArguments?: number;
}

/** A command line that has been understood. */
export interface Call extends Getopt {
  readonly shell: IoShell;
}

interface AnyCommand extends CommandInfo {
  /** Its option letters, as `getopt` takes them; without them every word is an operand. */
  readonly letters?: string;
}

/** A command that needs no image. */
export interface ShellCommand extends AnyCommand {
  readonly needs: "nothing";
  run(call: Call): Promise<void> | void;
}

/** A command that works on the image that is open, which may be written where it says so. */
export interface ImageCommand extends AnyCommand {
  readonly needs: "image" | "writable image";
  run(call: Call, image: IoImage): Promise<void> | void;
}

export type IoCommand = ShellCommand | ImageCommand;

/** A line on the standard output, on the standard error stream, or there with the program's name in front. */
type FailureKind = "output" | "error" | "report";

/** The command has failed. */
export class CommandFailure extends Error {
  readonly kind: FailureKind;

  /** @param message without a line end; nothing is printed when it is empty */
  constructor(message: string, kind: FailureKind = "output") {
    super(message);
    this.kind = kind;
  }
}

/** The arguments are not what the command takes: its usage is shown. */
export class CommandMisuse extends Error {}

/** What a command takes, and what it does. @param name as it was called */
export function usageLine({ synopsis, summary }: CommandInfo, name: string): string {
  return `${name} ${synopsis === "" ? "" : `${synopsis} `}-- ${summary}\n`;
}
