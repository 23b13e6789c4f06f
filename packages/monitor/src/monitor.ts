/**
 * The monitor of one graph: sessions come and go, commands act on the graph and its jobs, and every event goes to every
 * QMP client. It opens no sockets: bytes come in and go out through connections. Everything runs on the graph's owner
 * thread.
 */
import { type Clock, type Co, CoMutex, type Runner } from "@spindle/base";
import type { CorruptionEvent, Graph } from "@spindle/block";
import type { CreateCopier, JobRegistry } from "@spindle/jobs";
import { type Command, type CommandContext, checkArguments, type Version } from "./command.ts";
import { COMMANDS } from "./command-table.ts";
import type { Connection, Session } from "./connection.ts";
import { HmpSession } from "./hmp-session.ts";
import type { JsonObject } from "./json-value.ts";
import { type Machine, MachineControl, type MachineError } from "./machine.ts";
import { commandNotFound } from "./qmp-error.ts";
import { QmpSession } from "./qmp-session.ts";
import type { SessionHost, SessionLoop } from "./session-loop.ts";

/** The time of day. */
export interface WallClock {
  /** Microseconds since the start of 1970, UTC; a whole number. */
  nowMicroseconds(): number;
}

export interface MonitorOptions {
  readonly graph: Graph;
  readonly jobs: JobRegistry;
  /** Makes the copiers of stream jobs. */
  readonly createCopier: CreateCopier;
  /** Runs the commands, beside the jobs. */
  readonly runner: Pick<Runner, "spawn">;
  readonly clock: Clock;
  readonly wallClock: WallClock;
  readonly version: Version;
  /** The machine to which the program serves a disk, if it does: there are `stop`, `cont` and `query-status` then. */
  readonly machine?: Machine;
  /** Whether `quit` emits `SHUTDOWN`, as QEMU does and its storage daemon does not. Default false. */
  readonly announceShutdown?: boolean;
  /** Called once, when `quit` has been answered: the program shall end, all jobs are over. */
  readonly onQuit: () => void;
}

export class Monitor {
  readonly #options: MonitorOptions;
  readonly #context: CommandContext;
  readonly #machine: MachineControl | undefined;
  readonly #host: SessionHost;
  readonly #sessions: Set<SessionLoop> = new Set();
  readonly #graphChange: CoMutex = new CoMutex();
  readonly #unsubscribe: readonly (() => void)[];
  #quitting = false;
  #quit = false;

  constructor(options: MonitorOptions) {
    this.#options = options;
    const { graph, jobs, createCopier, clock, version, runner } = options;
    const machine = options.machine && new MachineControl(options.machine, (event, data) => this.emit(event, data));
    this.#machine = machine;
    this.#context = {
      graph,
      jobs,
      createCopier,
      clock,
      version,
      machine,
      commandNames: ["qmp_capabilities", ...[...COMMANDS.values()].filter(this.#has).map(({ name }) => name)],
      execute: (name, argumentValues) => this.#execute(name, argumentValues),
      quit: () => this.#endJobs(),
    };
    const monitor = this;
    this.#host = {
      clock,
      runner,
      get quitting() {
        return monitor.#quitting;
      },
      settled: (session) => this.#settled(session),
    };
    this.#unsubscribe = [
      jobs.onEvent(({ event, data }) => this.emit(event, data)),
      graph.onCorruption((nodeName, event) => this.#tellCorruption(nodeName, event)),
    ];
  }

  /** A QMP client has connected. It is greeted at once. */
  openQmp(connection: Connection): Session {
    return this.#open(new QmpSession(this.#host, this.#context, connection));
  }

  /** An HMP client has connected. It is greeted at once. */
  openHmp(connection: Connection): Session {
    return this.#open(new HmpSession(this.#host, this.#context, connection));
  }

  /** Tells every QMP client of an event, such as one that a device has found out. */
  emit(event: string, data?: object): void {
    const now = this.#options.wallClock.nowMicroseconds();
    const timestamp = { seconds: Math.floor(now / 1e6), microseconds: now % 1e6 };
    for (const session of this.#sessions) if (session instanceof QmpSession) session.tell({ timestamp, event, data });
  }

  /** Tells every QMP client of an error of a request of the machine, and that it has stopped if it has. */
  tellIoError(error: MachineError): void {
    this.#machine?.tell(error);
  }

  /** How many clients are connected. */
  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** Stops listening to jobs and nodes. The sessions are the host's to close. */
  close(): void {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
  }

  readonly #has = ({ forMachine }: Command): boolean => !forMachine || this.#machine !== undefined;

  #tellCorruption(nodeName: string, { message, offset, length, fatal }: CorruptionEvent): void {
    const place = offset === undefined || length === undefined ? {} : { offset, size: length };
    this.emit("BLOCK_IMAGE_CORRUPTED", { device: "", "node-name": nodeName, msg: message, ...place, fatal });
  }

  #open(session: SessionLoop): Session {
    if (!session.over) this.#sessions.add(session);
    return session;
  }

  *#execute(name: string, argumentValues: JsonObject): Co<unknown> {
    const command = COMMANDS.get(name);
    if (command === undefined || !this.#has(command)) throw commandNotFound(name);
    const values = checkArguments(command, argumentValues);
    const run = (): Co<unknown> => command.run(this.#context, values, argumentValues);
    return yield* command.changesGraph ? this.#graphChange.run(run) : run();
  }

  *#endJobs(): Co<void> {
    if (this.#options.announceShutdown === true) this.emit("SHUTDOWN", { guest: false, reason: "host-qmp-quit" });
    yield* this.#options.jobs.cancelAll();
    this.#quitting = true;
  }

  #settled(session: SessionLoop): void {
    this.#sessions.delete(session);
    if (!this.#quitting || this.#quit) return;
    this.#quit = true;
    this.#options.onQuit();
  }
}
