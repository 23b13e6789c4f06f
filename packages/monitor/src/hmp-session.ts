/** One HMP client: a banner, a prompt, and what each line prints (monitor/hmp.c). Lines are not echoed nor edited. */
import type { Co } from "@spindle/base";
import type { CommandContext } from "./command.ts";
import type { Connection } from "./connection.ts";
import { interpretLine } from "./hmp-interpreter.ts";
import { decodeLeniently } from "./modified-utf8.ts";
import { type SessionHost, SessionLoop } from "./session-loop.ts";

/** QEMU's prompt: scripts wait for it. */
const PROMPT = "(qemu) ";

/** What a line has more than this is cut off, as QEMU does. */
const LINE_BYTES_MAX = 4095;

const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;

export class HmpSession extends SessionLoop {
  readonly #context: CommandContext;
  #lines: Uint8Array[] = [];
  #nextLine = 0;
  readonly #line: Uint8Array = new Uint8Array(LINE_BYTES_MAX);
  #length = 0;
  #lastByte = 0;
  #waitingBytes = 0;

  constructor(host: SessionHost, context: CommandContext, connection: Connection) {
    super(host, connection);
    this.#context = context;
    const { major, minor, micro } = context.version;
    this.send(`Spindle ${major}.${minor}.${micro} monitor - type 'help' for more information\r\n${PROMPT}`);
  }

  protected override take(bytes: Uint8Array): void {
    for (const byte of bytes) {
      const lineEnd = byte === CARRIAGE_RETURN || (byte === LINE_FEED && this.#lastByte !== CARRIAGE_RETURN);
      if (lineEnd) this.#endLine();
      else if (byte !== LINE_FEED && this.#length < LINE_BYTES_MAX) this.#line[this.#length++] = byte;
      this.#lastByte = byte;
    }
  }

  protected override get waitingBytes(): number {
    return this.#waitingBytes;
  }

  protected override *answerNext(): Co<boolean> {
    const line = this.#lines[this.#nextLine];
    if (line === undefined) {
      this.#lines = [];
      this.#nextLine = 0;
      return false;
    }
    this.#nextLine += 1;
    this.#waitingBytes -= costOf(line);
    const output = yield* interpretLine(this.#context, decodeLeniently(line));
    this.send(this.quitting ? output : `${output}${PROMPT}`);
    return true;
  }

  #endLine(): void {
    const line = this.#line.slice(0, this.#length);
    this.#length = 0;
    this.#lines.push(line);
    this.#waitingBytes += costOf(line);
  }
}

/** What a waiting line costs in memory, roughly: empty ones are not free. */
function costOf(line: Uint8Array): number {
  return line.length + 128;
}
