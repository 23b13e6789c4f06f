/** The standard streams of the program. */
import { once } from "node:events";

/** Writes to standard output, and waits when the reader is slow, so that long lists take little memory. */
export async function print(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, "drain");
}

/** One line on standard error, with the program's name in front. */
export function complain(message: string): void {
  process.stderr.write(`spindle: ${message.replace(/\s*\n\s*/g, " ")}\n`);
}
