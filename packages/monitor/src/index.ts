export type { Version } from "./command.ts";
export type { Connection, Session } from "./connection.ts";
export { Monitor, type MonitorOptions, type WallClock } from "./monitor.ts";
