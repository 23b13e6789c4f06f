/** QEMU's storage daemon as a child process, driven over QMP on its standard input and output. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";

interface Reply {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

export class QemuStorageDaemon {
  readonly #child: ChildProcess;
  readonly #replies: Map<number, (reply: Reply) => void> = new Map();
  readonly #events: Reply[] = [];
  #arrived: () => void = () => {};
  #exited = false;
  #nextId = 0;

  /** @param blockdevs as `--blockdev` takes them, opened in this order */
  static async start(program: string, blockdevs: readonly object[]): Promise<QemuStorageDaemon> {
    const graph = blockdevs.flatMap((blockdev) => ["--blockdev", JSON.stringify(blockdev)]);
    const monitor = ["--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor"];
    const daemon = new QemuStorageDaemon(
      spawn(program, [...graph, ...monitor], { stdio: ["pipe", "pipe", "inherit"] }),
    );
    await daemon.execute("qmp_capabilities");
    return daemon;
  }

  private constructor(child: ChildProcess) {
    this.#child = child;
    const { stdout } = child;
    if (stdout === null) throw new Error("the daemon has no standard output");
    createInterface(stdout).on("line", (line) => this.#receive(JSON.parse(line) as Reply));
    child.once("exit", () => {
      this.#exited = true;
      for (const settle of this.#replies.values()) settle({ error: { desc: "qemu-storage-daemon ended" } });
      this.#arrived();
    });
  }

  get processId(): number {
    return this.#child.pid ?? 0;
  }

  async execute(command: string, options: object = {}): Promise<unknown> {
    const id = this.#nextId++;
    const reply = new Promise<Reply>((resolve) => this.#replies.set(id, resolve));
    this.#child.stdin?.write(`${JSON.stringify({ execute: command, arguments: options, id })}\n`);
    const { error, return: value } = await reply;
    if (error !== undefined) throw new Error(`${command}: ${error.desc}`);
    return value;
  }

  /** Waits for the next event of this name, and forgets those before it. */
  async event(name: string): Promise<Readonly<Record<string, unknown>>> {
    for (;;) {
      const next = this.#events.shift();
      if (next?.event === name) return next.data ?? {};
      if (next !== undefined) continue;
      if (this.#exited) throw new Error(`qemu-storage-daemon ended before ${name}`);
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
  }

  /**
   * Streams the whole chain into a node.
   * @returns seconds from the command to the job's completion
   */
  async stream(node: string): Promise<number> {
    const begin = performance.now();
    await this.execute("block-stream", { "job-id": "stream", device: node });
    const { error } = await this.event("BLOCK_JOB_COMPLETED");
    if (error !== undefined) throw new Error(`block-stream: ${String(error)}`);
    return (performance.now() - begin) / 1_000;
  }

  async quit(): Promise<void> {
    const exit = new Promise<void>((resolve) => this.#child.once("exit", () => resolve()));
    await this.execute("quit");
    await exit;
  }

  /** Ends it at once: with a vhost-user export QEMU 7.2 does not always come to its end when it is told to quit. */
  async kill(): Promise<void> {
    const exit = new Promise<void>((resolve) => this.#child.once("exit", () => resolve()));
    this.#child.kill("SIGKILL");
    await exit;
  }

  #receive(reply: Reply): void {
    if (reply.event !== undefined) {
      this.#events.push(reply);
      this.#arrived();
    } else if (reply.id !== undefined) {
      this.#replies.get(reply.id)?.(reply);
      this.#replies.delete(reply.id);
    }
  }
}
