/**
 * The name that the program goes by: its own, or that of the QEMU program for which it stands in. It is told by the name
 * of the file that was started, such as a symbolic link `qemu-img`, or by the first argument, `--as qemu-img`.
 */
import { basename } from "node:path";
import { UsageError } from "./command.ts";
import { QEMU_VERSION, VERSION } from "./version.ts";

const NAMES = ["spindle", "qemu-img", "qemu-io"] as const;
type ProgramName = (typeof NAMES)[number];

let current: ProgramName = "spindle";

/** What stands in front of every message. */
export function programName(): ProgramName {
  return current;
}

/**
 * Takes the name on, from the arguments of the process.
 * @returns the words of the command line; those of `qemu-io` are the command `io`'s.
 * @throws {UsageError} when `--as` names no such program.
 */
export function takeProgramName([, script = "", ...words]: readonly string[]): readonly string[] {
  const isGiven = words[0] === "--as";
  const wanted = isGiven ? words[1] : basename(script);
  const known = NAMES.find((name) => name === wanted);
  if (isGiven && known === undefined) throw new UsageError(`--as must be used with ${NAMES.join(" or ")} as argument`);
  current = known ?? "spindle";
  const argv = isGiven ? words.slice(2) : words;
  return current === "qemu-io" ? ["io", ...argv] : argv;
}

/** A stand-in also tells which version of QEMU's program it follows. */
export function versionLine(): string {
  const name = programName();
  return name === "spindle" ? `spindle version ${VERSION}\n` : `${name} version ${QEMU_VERSION} (Spindle ${VERSION})\n`;
}
