/** A QMP client inside the process: the demo's stream is started as any management program would start it. */
import { BlockError } from "@spindle/base";
import type { Monitor, Session } from "@spindle/monitor";

type Reply = { readonly return?: unknown; readonly error?: { readonly class: string; readonly desc: string } };
type Message = Reply & { readonly id?: number; readonly event?: string; readonly data?: Record<string, unknown> };

export class QmpClient {
  readonly #session: Session;
  readonly #waiting: Map<number, (reply: Reply) => void> = new Map();
  readonly #onEvent: (event: string, data: Record<string, unknown>) => void;
  #received = "";
  #nextId = 1;

  /** Connects and negotiates. */
  static async connect(
    monitor: Monitor,
    onEvent: (event: string, data: Record<string, unknown>) => void,
  ): Promise<QmpClient> {
    const client = new QmpClient(monitor, onEvent);
    await client.execute("qmp_capabilities");
    return client;
  }

  private constructor(monitor: Monitor, onEvent: (event: string, data: Record<string, unknown>) => void) {
    this.#onEvent = onEvent;
    this.#session = monitor.openQmp({
      write: (bytes) => {
        this.#receive(new TextDecoder().decode(bytes));
        return true;
      },
      close: () => {},
    });
  }

  /** @throws {BlockError} EINVAL with the monitor's text when the command fails. */
  async execute(command: string, commandArguments: Record<string, unknown> = {}): Promise<unknown> {
    const id = this.#nextId++;
    const reply = new Promise<Reply>((resolve) => this.#waiting.set(id, resolve));
    const message = JSON.stringify({ execute: command, arguments: commandArguments, id });
    this.#session.receive(new TextEncoder().encode(message));
    const { error, return: result } = await reply;
    if (error !== undefined) throw new BlockError("EINVAL", `${command}: ${error.desc}`);
    return result;
  }

  close(): void {
    this.#session.end();
  }

  #receive(text: string): void {
    const lines = (this.#received + text).split("\r\n");
    this.#received = lines.pop() as string;
    for (const line of lines) {
      const message = JSON.parse(line) as Message;
      if (message.event !== undefined) this.#onEvent(message.event, message.data ?? {});
      else if (message.id !== undefined) {
        this.#waiting.get(message.id)?.(message);
        this.#waiting.delete(message.id);
      }
    }
  }
}
