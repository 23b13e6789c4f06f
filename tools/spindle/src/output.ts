/** The standard streams of the program. */
import { once } from "node:events";
import { programName } from "./program-name.ts";

/** Nobody reads the output any more, as after `spindle map ... | head`: that is no failure. */
export class OutputClosed extends Error {}

/**
 * Writes to standard output, and waits when the reader is slow, so that long lists take little memory.
 * @throws {OutputClosed} when the reader has gone.
 */
export async function print(text: string): Promise<void> {
  const { stdout } = process;
  if (stdout.destroyed || stdout.errored !== null) throw new OutputClosed();
  if (stdout.write(text)) return;
  try {
    await once(stdout, "drain");
  } catch {
    throw new OutputClosed();
  }
}

/** One line on standard error, with the program's name in front; what the user may do about it stands on the next. */
export function complain(message: string, hint?: string): void {
  process.stderr.write(
    `${programName()}: ${message.replace(/\s*\n\s*/g, " ")}\n${hint === undefined ? "" : `${hint}\n`}`,
  );
}
