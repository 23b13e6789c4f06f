/** The shell of qemu-io: the image that is open, and one command line after the other. */
import { isBlockError } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import { Session, type SessionOptions } from "spindle";
import type { ImageName } from "../image-name.ts";
import { programName } from "../program-name.ts";
import { type Getopt, getopt } from "./getopt.ts";
import { CommandFailure, CommandMisuse, type IoCommand, usageLine } from "./io-command.ts";
import { IoImage } from "./io-image.ts";
import { IoOutput } from "./io-output.ts";
import { type RequestReport, requestLines } from "./io-report.ts";
import type { OpenMode } from "./open-mode.ts";

export interface IoShellOptions extends SessionOptions {
  readonly commands: readonly IoCommand[];
  /** Names of images are options. */
  readonly imageOptions: boolean;
}

export class IoShell implements AsyncDisposable {
  readonly commands: readonly IoCommand[];
  readonly imageOptions: boolean;
  readonly #session: Session;
  readonly #output: IoOutput = new IoOutput();
  #image: IoImage | undefined;
  #failed = false;
  #ended = false;

  constructor(options: IoShellOptions) {
    this.commands = options.commands;
    this.imageOptions = options.imageOptions;
    this.#session = new Session(options);
    this.#session.graph.onCorruption((_node, { message }) => {
      const text = `Marking image as corrupt: ${message}; further corruption events will be suppressed`;
      this.#output.complain(`qcow2: ${text}\n`);
    });
  }

  /** `quit` was said. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Some command has failed. */
  get failed(): boolean {
    return this.#failed;
  }

  command(name: string): IoCommand | undefined {
    return this.commands.find((command) => command.name === name || command.shortName === name);
  }

  print(text: string): void {
    this.#output.print(text);
  }

  report(report: RequestReport): void {
    this.print(requestLines(report));
  }

  /** Puts out what is held back. */
  flush(): void {
    this.#output.flush();
  }

  quit(): void {
    this.#ended = true;
  }

  /**
   * @param shownName as the user gave it; empty when only options were given
   * @throws {CommandFailure} when it cannot be opened, or another image is open.
   */
  async open(shownName: string, mode: OpenMode, name: () => ImageName): Promise<void> {
    if (this.#image !== undefined) throw new CommandFailure("file open already, try 'help close'", "report");
    const device = shownName === "" ? "" : ` device ${shownName}`;
    try {
      this.#image = await IoImage.open(this.#session, name(), mode);
    } catch (error) {
      throw explained(error, `can't open${device}: `);
    }
    this.#warnOfProbedRaw(this.#image.image);
  }

  /** Closes the image; it is fine when there is none. @throws {CommandFailure} when it could not be made durable. */
  async close(): Promise<void> {
    const image = this.#image;
    this.#image = undefined;
    try {
      await image?.close();
    } catch (error) {
      throw explained(error, "");
    }
  }

  /** Opens the image in another way; as it was before when that fails. @throws {CommandFailure} that says why. */
  async reopen(name: ImageName, mode: OpenMode): Promise<void> {
    const before = this.#image as IoImage;
    await this.close();
    try {
      this.#image = await IoImage.open(this.#session, name, mode);
    } catch (error) {
      this.#image = await IoImage.open(this.#session, before.name, before.mode);
      throw explained(error, "");
    }
  }

  /** Runs a command line. What goes wrong is said and remembered. */
  async run(line: string): Promise<void> {
    const words = line.split(" ").filter((word) => word !== "");
    const [name] = words;
    if (name === undefined) return;
    await this.attempt(async () => {
      const command = this.command(name);
      if (command === undefined) throw new CommandFailure(`command "${name}" not found`, "error");
      await this.#call(command, words);
    });
  }

  /** @returns whether it has succeeded; what went wrong is said and remembered. */
  async attempt(action: () => Promise<void>): Promise<boolean> {
    try {
      await action();
      return true;
    } catch (error) {
      if (!(error instanceof CommandFailure)) throw error;
      this.#failed = true;
      this.#tell(error);
      return false;
    }
  }

  /** What looks like no format may be made to look like one by whoever writes it. */
  #warnOfProbedRaw({ driver, probed, readOnly, filename }: BlockNode): void {
    if (!probed || readOnly || driver.name !== "raw") return;
    this.#output.complain(
      `WARNING: Image format was not specified for '${filename}' and probing guessed raw.\n` +
        "         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n" +
        "         Specify the 'raw' format explicitly to remove the restrictions.\n",
    );
  }

  #tell({ kind, message }: CommandFailure): void {
    if (message === "") return;
    if (kind === "output") this.print(`${message}\n`);
    else
      for (const line of message.split("\n"))
        this.#output.complain(`${kind === "report" ? `${programName()}: ` : ""}${line}\n`);
  }

  /** Closes the image, and puts out what is held back. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#image?.drain();
    } finally {
      this.flush();
      await this.#session.close();
    }
  }

  async #call(command: IoCommand, words: readonly string[]): Promise<void> {
    const image = this.#image;
    if (command.needs !== "nothing" && image === undefined)
      throw new CommandFailure("no file open, try 'help open'", "error");
    checkCount(command, words);
    if (command.needs === "writable image" && image?.node.readOnly === true)
      throw new CommandFailure("Block node is read-only", "report");
    const parsed = command.letters === undefined ? withoutOptions(words) : getopt(words, command.letters);
    if (parsed.fault !== undefined) this.#output.complain(`${parsed.fault}\n`);
    const call = { ...parsed, shell: this };
    try {
      if (parsed.fault !== undefined) throw new CommandMisuse();
      if (command.needs === "nothing") await command.run(call);
      else await command.run(call, image as IoImage);
    } catch (error) {
      if (!(error instanceof CommandMisuse)) throw error;
      throw new CommandFailure(usageLine(command, command.name).trimEnd());
    }
  }
}

function withoutOptions([, ...operands]: readonly string[]): Getopt {
  return { options: [], operands };
}

/** @throws {CommandFailure} when there are too many arguments, or not enough. */
function checkCount(command: IoCommand, [name, ...given]: readonly string[]): void {
  const least = command.leastArguments ?? 0;
  const most = command.mostArguments ?? least;
  if (given.length >= least && given.length <= most) return;
  const expected =
    most === Number.POSITIVE_INFINITY
      ? `at least ${least} arguments`
      : least === most
        ? `${least} arguments`
        : `between ${least} and ${most} arguments`;
  throw new CommandFailure(`bad argument count ${given.length} to ${name}, expected ${expected}`, "error");
}

function explained(error: unknown, before: string): unknown {
  return isBlockError(error) ? new CommandFailure(`${before}${error.message}`, "report") : error;
}
