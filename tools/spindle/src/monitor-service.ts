/** Serves monitors at the places that `--qmp` and `--hmp` name: for the commands that serve them beside other things. */
import {
  type ByteConnection,
  listenUnix,
  nodeEventLoop,
  standardConnection,
  type UnixListener,
} from "@spindle/host-node";
import { type Machine, Monitor, type Session as MonitorSession, type WallClock } from "@spindle/monitor";
import type { Session } from "spindle";
import { UsageError } from "./command.ts";
import { type MonitorPlace, parseMonitorPlace } from "./monitor-option.ts";
import { VERSION_NUMBERS } from "./version.ts";

export const MONITOR_OPTIONS = {
  qmp: { value: "PLACE", many: true, help: "serve QMP here: unix:PATH or stdio" },
  hmp: { value: "PLACE", many: true, help: "serve the human monitor here: unix:PATH or stdio" },
} as const;

export interface PlacedMonitor {
  readonly language: "qmp" | "hmp";
  readonly place: MonitorPlace;
}

/** @throws {UsageError} for a place that is none, and for two monitors on the standard streams. */
export function monitorPlaces(values: Readonly<Record<"qmp" | "hmp", readonly string[]>>): PlacedMonitor[] {
  const places = (["qmp", "hmp"] as const).flatMap((language) =>
    values[language].map((text): PlacedMonitor => ({ language, place: parseMonitorPlace(language, text) })),
  );
  if (places.filter(({ place }) => place.kind === "stdio").length > 1)
    throw new UsageError("only one monitor can use stdio");
  return places;
}

export interface MonitorServiceOptions {
  readonly session: Session;
  readonly places: readonly PlacedMonitor[];
  /** The machine that is served, if one is. */
  readonly machine?: Machine;
  /** `quit` was said. */
  readonly onQuit: () => void;
}

export class MonitorService implements AsyncDisposable {
  readonly monitor: Monitor;
  readonly #listeners: UnixListener[] = [];
  readonly #letGo: () => void;

  /** @throws {BlockError} EBUSY, EEXIST, EACCES and the like for a socket. */
  static async start(options: MonitorServiceOptions): Promise<MonitorService> {
    const service = new MonitorService(options);
    try {
      for (const placed of options.places) await service.#open(placed);
      return service;
    } catch (error) {
      await service[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor({ session, machine, onQuit }: MonitorServiceOptions) {
    const { graph, jobs, createCopier, runner } = session;
    const { clock } = session.environment;
    const version = VERSION_NUMBERS;
    const served = machine === undefined ? {} : { machine };
    this.monitor = new Monitor({ graph, jobs, createCopier, runner, clock, wallClock, version, ...served, onQuit });
    // Neither a signal to come nor a monitor whose client has gone keeps the process alive.
    this.#letGo = nodeEventLoop().keepAlive();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.monitor.close();
    for (const listener of this.#listeners) await listener.close();
    process.stdin.destroy();
    this.#letGo();
  }

  async #open({ language, place }: PlacedMonitor): Promise<void> {
    const { monitor } = this;
    const accept = (connection: ByteConnection): void => {
      attach(connection, language === "qmp" ? monitor.openQmp(connection) : monitor.openHmp(connection));
    };
    if (place.kind === "stdio") accept(standardConnection());
    else this.#listeners.push(await listenUnix(place.path, accept));
  }
}

function attach(connection: ByteConnection, conversation: MonitorSession): void {
  connection.onData = (bytes) => conversation.receive(bytes);
  connection.onEnd = () => conversation.end();
}

const wallClock: WallClock = { nowMicroseconds: () => Math.floor((performance.timeOrigin + performance.now()) * 1000) };
