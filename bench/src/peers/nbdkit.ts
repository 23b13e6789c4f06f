/** nbdkit serving one file on a Unix socket, every read delayed: how QEMU meets a slow base. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

export class Nbdkit {
  readonly socket: string;
  readonly #child: ChildProcess;

  /** @param socket the path of the socket to make */
  static async start(program: string, image: string, socket: string, readDelayMs: number): Promise<Nbdkit> {
    const delay = ["--filter=delay", "file", image, `rdelay=${readDelayMs}ms`];
    const child = spawn(program, ["--foreground", "--exit-with-parent", "--readonly", "-U", socket, ...delay], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    while (!existsSync(socket)) {
      if (child.exitCode !== null) throw new Error(`nbdkit ended with ${child.exitCode}`);
      await pause(10);
    }
    return new Nbdkit(child, socket);
  }

  private constructor(child: ChildProcess, socket: string) {
    this.#child = child;
    this.socket = socket;
  }

  async stop(): Promise<void> {
    const exit = new Promise<void>((resolve) => this.#child.once("exit", () => resolve()));
    this.#child.kill("SIGTERM");
    await exit;
  }
}
