/** Clients of the monitors that programs serve at sockets. */
import { connect, type Socket } from "node:net";

export interface Message {
  readonly QMP?: object;
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

/** A client of one socket, which keeps what arrives. */
export class MonitorClient {
  readonly socket: Socket;
  text = "";
  #arrived: () => void = () => {};

  constructor(path: string) {
    this.socket = connect(path);
    this.socket.setEncoding("utf8");
    this.socket.on("data", (text: string) => {
      this.text += text;
      this.#arrived();
    });
    this.socket.on("error", () => {});
    this.socket.on("close", () => this.#arrived());
  }

  async until(ready: () => boolean): Promise<void> {
    while (!ready()) {
      if (this.socket.destroyed) throw new Error(`the connection was closed after: ${this.text}`);
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
  }
}

export class QmpClient extends MonitorClient {
  #next = 0;

  get messages(): Message[] {
    const lines = this.text.split("\r\n").slice(0, -1);
    return lines.map((line) => JSON.parse(line) as Message);
  }

  async message(wanted: (message: Message) => boolean): Promise<Message> {
    const find = (): number => this.messages.findIndex((message, index) => index >= this.#next && wanted(message));
    await this.until(() => find() >= 0);
    const index = find();
    this.#next = index + 1;
    return this.messages[index] as Message;
  }

  async execute(execute: string, argumentValues: object = {}): Promise<Message> {
    this.socket.write(JSON.stringify({ execute, arguments: argumentValues }));
    return await this.message((message) => message.return !== undefined || message.error !== undefined);
  }

  /** Events that have arrived, without their time, as lines. */
  get events(): string[] {
    const lines = this.text.split("\r\n").filter((line) => line.includes('"event": '));
    return lines.map((line) => line.replace(/^\{"timestamp": \{[^}]*\}, /, "{"));
  }

  static async connect(path: string): Promise<QmpClient> {
    const client = new QmpClient(path);
    await client.message((message) => message.QMP !== undefined);
    await client.execute("qmp_capabilities");
    return client;
  }
}
