export type { Version } from "./command.ts";
export type { Connection, Session } from "./connection.ts";
export { dictionaryOrder } from "./dictionary-order.ts";
export { JsonReader } from "./json-reader.ts";
export { writeJson } from "./json-writer.ts";
export type { Machine, MachineError } from "./machine.ts";
export { Monitor, type MonitorOptions, type WallClock } from "./monitor.ts";
