/** A monitor over a graph in memory on one blocking thread, with clients that remember what they were sent. */
import { type Clock, type Co, SeededRandom, SyncRunner } from "@spindle/base";
import { copyOnReadFilter, DriverRegistry, Graph, SecretStore } from "@spindle/block";
import { JobRegistry, LocalCopier } from "@spindle/jobs";
import { RangeLock, type Thread, ThreadTable } from "@spindle/shared-memory";
import { MemoryFiles } from "@spindle/testkit";
import { Monitor, type MonitorOptions, type Session } from "../src/index.ts";
import { layerFormat, type Trouble } from "./memory-layer.ts";

const clock: Clock = { now: () => performance.now() };

/** Bytes of the disks that {@link MonitorRig.addChain} makes. */
export const DISK_BYTES: number = 8 * 1024 * 1024;

/** Data everywhere: no cluster is left out by a copy. */
const BASE: Uint8Array = new Uint8Array(DISK_BYTES).fill(0x5a);

export class MonitorRig {
  readonly trouble: Trouble = { error: undefined };
  readonly files: MemoryFiles = new MemoryFiles("file");
  readonly secrets: SecretStore = new SecretStore();
  readonly jobs: JobRegistry;
  readonly graph: Graph;
  readonly monitor: Monitor;
  /** How often the monitor has said that the program shall end. */
  quits = 0;
  readonly #thread: Thread = new ThreadTable(ThreadTable.create()).attach();
  #answering = 0;
  readonly #runner: SyncRunner = new SyncRunner(clock, this.#thread);

  constructor(options: Partial<MonitorOptions> = {}) {
    const codecs = { inflateRaw: unused, deflateRaw: unused, compressZstd: unused, decompressZstd: unused };
    this.graph = new Graph({
      environment: { clock, random: new SeededRandom(1), codecs, secrets: this.secrets },
      registry: new DriverRegistry([this.files, layerFormat(this.trouble), copyOnReadFilter]),
      backingPolicy: {
        *resolve(_image, backing) {
          return backing.filename;
        },
      },
      createTracker: () => new RangeLock(RangeLock.create({ slots: 64 }), this.#thread),
    });
    this.jobs = new JobRegistry({ clock, runner: this.#runner });
    this.monitor = new Monitor({
      graph: this.graph,
      jobs: this.jobs,
      *createCopier(copierOptions) {
        return new LocalCopier(copierOptions);
      },
      runner: { spawn: (co, settled) => this.#spawnCommand(co, settled) },
      clock,
      wallClock: { nowMicroseconds: () => 1_700_000_000_123_456 },
      version: { major: 7, minor: 2, micro: 22, package: "" },
      onQuit: () => {
        this.quits += 1;
      },
      ...options,
    });
    this.files.put("base", BASE);
    this.files.put("top", 0);
  }

  /** A QMP client; greeted, and negotiated unless told otherwise. */
  qmp(options: { negotiate?: boolean } = {}): Client {
    const client = new Client((connection) => this.monitor.openQmp(connection), this);
    if (options.negotiate === false) return client;
    client.say({ execute: "qmp_capabilities" });
    client.take();
    return client;
  }

  hmp(): Client {
    return new Client((connection) => this.monitor.openHmp(connection), this);
  }

  /** Opens `top`, a layer of 8 MiB without data of its own, over `base`, a file full of data. */
  addChain(client: Client): void {
    const base = { driver: "file", "node-name": "base", filename: "base" };
    const file = { driver: "file", filename: "top" };
    for (const options of [base, { driver: "layer", "node-name": "top", size: DISK_BYTES, file, backing: "base" }])
      client.say({ execute: "blockdev-add", arguments: options });
    this.settle();
    client.take();
  }

  /** Lets the monitor answer everything that it has been asked. */
  settle(): void {
    this.until(() => this.#answering === 0);
  }

  /** Lets time pass until something is true. */
  until(ready: () => boolean): void {
    this.#runner.runUntil(ready);
  }

  #spawnCommand<T>(co: Co<T>, settled: (error: unknown, value?: T) => void): void {
    this.#answering += 1;
    this.#runner.spawn(co, (error, value?: T) => {
      this.#answering -= 1;
      settled(error, value);
    });
  }
}

function unused(): never {
  throw new Error("no codec is needed here");
}

/** The far side of one session. */
export class Client {
  /** What arrives is refused from now on, as when the peer is gone. */
  gone = false;
  closed = false;
  sentBytes = 0;
  readonly session: Session;
  readonly #rig: MonitorRig;
  #received: Uint8Array[] = [];
  /** Lines that arrived behind a reply that {@link execute} waited for. */
  #later: string[] = [];

  constructor(open: (connection: { write(bytes: Uint8Array): boolean; close(): void }) => Session, rig: MonitorRig) {
    this.#rig = rig;
    this.session = open({
      write: (bytes) => {
        if (this.gone) return false;
        this.#received.push(bytes);
        this.sentBytes += bytes.length;
        return true;
      },
      close: () => {
        this.closed = true;
      },
    });
  }

  /** Sends text, or a value as JSON, and lets the monitor answer. */
  say(message: string | object): this {
    return this.sayBytes(Buffer.from(typeof message === "string" ? message : JSON.stringify(message)));
  }

  sayBytes(bytes: Uint8Array): this {
    this.session.receive(bytes);
    this.#rig.settle();
    return this;
  }

  /** Everything that arrived since the last call. */
  take(): string {
    const text = Buffer.concat(this.#received).toString();
    this.#received = [];
    return text;
  }

  /** The same, line by line, without the time of events. */
  lines(): string[] {
    const later = this.#later;
    this.#later = [];
    const lines = this.take().split("\r\n").slice(0, -1);
    return [...later, ...lines.map((line) => line.replace(/^\{"timestamp": \{[^}]*\}, /, "{"))];
  }

  /** Sends a command, waits until it is answered, and returns what arrived up to the answer. */
  execute(command: string, argumentValues: object = {}): string[] {
    this.say({ execute: command, arguments: argumentValues, id: 0 });
    const lines: string[] = [];
    let answer = -1;
    this.#rig.until(() => {
      lines.push(...this.lines());
      answer = lines.findIndex((line) => /"id": 0\}$|^\{"id": 0/.test(line));
      return answer >= 0;
    });
    this.#later = lines.splice(answer + 1);
    return lines;
  }
}
