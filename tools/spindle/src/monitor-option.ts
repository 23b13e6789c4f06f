/** The values of `--qmp` and `--hmp`: where a monitor is served. */
import { UsageError } from "./command.ts";

export type MonitorPlace = { readonly kind: "unix"; readonly path: string } | { readonly kind: "stdio" };

/** @throws {UsageError} when it is neither `unix:PATH` nor `stdio`. */
export function parseMonitorPlace(option: string, text: string): MonitorPlace {
  if (text === "stdio") return { kind: "stdio" };
  const path = text.startsWith("unix:") ? text.slice("unix:".length) : "";
  if (path !== "") return { kind: "unix", path };
  throw new UsageError(`Invalid place '${text}' for --${option}: unix:PATH or stdio`);
}
