/**
 * The standard streams of the program. They are written to directly and not through Node's streams, whose code takes a
 * short command as long to load as its own; those would write at once too, whatever the outputs are.
 */
import { fstatSync, writeSync } from "node:fs";
import { BlockError } from "@spindle/base";
import { programName } from "./program-name.ts";

export const STDOUT = 1;
export const STDERR = 2;

/** How long a full pipe is left alone that does not block. */
const BUSY_WAIT_MS = 1;

/** Nobody reads the output any more, as after `spindle map ... | head`: that is no failure. */
export class OutputClosed extends Error {}

/** Where progress is shown. */
export interface ProgressOutput {
  readonly isTTY: boolean;
  write(text: string): void;
}

/**
 * Writes to standard output, and waits while the reader is slow.
 * @throws {OutputClosed} when the reader has gone, and {BlockError} EIO when the output cannot be written.
 */
export function print(text: string): void {
  writeWhole(STDOUT, Buffer.from(text));
}

/** Writes to standard error. Nobody has to read it. */
export function printError(text: string): void {
  try {
    writeWhole(STDERR, Buffer.from(text));
  } catch {
    // There is nobody left to be told.
  }
}

/** One line on standard error, with the program's name in front; what the user may do about it stands on the next. */
export function complain(message: string, hint?: string): void {
  printError(`${programName()}: ${message.replace(/\s*\n\s*/g, " ")}\n${hint === undefined ? "" : `${hint}\n`}`);
}

/** Progress on standard output. What is shown goes on without a reader. */
export const standardOutput: ProgressOutput = {
  get isTTY() {
    return fstatSync(STDOUT).isCharacterDevice() && process.stdout.isTTY === true;
  },
  write(text) {
    try {
      print(text);
    } catch (error) {
      if (!(error instanceof OutputClosed)) throw error;
    }
  },
};

/** @throws {OutputClosed} when nobody reads from the descriptor any more, and {BlockError} EIO when it cannot be written. */
export function writeWhole(descriptor: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(descriptor, bytes, done);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") throw new OutputClosed();
      if (code !== "EAGAIN") throw new BlockError("EIO", `Could not write the output: ${message}`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BUSY_WAIT_MS);
    }
  }
}
