/** The program `spindle serve` as a process, with what it says. */
import { type ChildProcess, spawn } from "node:child_process";
import { type Scratch, SPINDLE } from "../acceptance/program.ts";

export class ServedImage {
  readonly #child: ChildProcess;
  readonly #ended: Promise<number | null>;
  #output = "";
  #complaints = "";
  #heard: () => void = () => {};

  /** Starts it in the folder, at the socket `socket` there, and waits until it serves. */
  static async start(scratch: Scratch, image: string, argv: readonly string[]): Promise<ServedImage> {
    const served = new ServedImage(scratch.folder, [image, "--vhost-user", "socket", ...argv]);
    await served.said(/^serving /m);
    return served;
  }

  private constructor(folder: string, argv: readonly string[]) {
    const [program = "", ...rest] = [...SPINDLE, "serve", ...argv];
    this.#child = spawn(program, rest, { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
    this.#child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.#output += text;
      this.#heard();
    });
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#complaints += text;
    });
    this.#ended = new Promise((resolve) => this.#child.once("close", (code) => resolve(code)));
    void this.#ended.then(() => this.#heard());
  }

  /** Waits until the output matches. */
  async said(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.#output)) {
      if (this.#child.exitCode !== null) throw new Error(`spindle serve ended: ${this.#complaints}`);
      await new Promise<void>((resolve) => {
        this.#heard = resolve;
      });
    }
  }

  /** Ends it in order. */
  async stop(): Promise<{ code: number | null; complaints: string }> {
    this.#child.kill("SIGTERM");
    return { code: await this.#ended, complaints: this.#complaints };
  }

  /** Ends it at once. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }
}
