/** Every driver that a graph in Node can open. A new format, protocol or filter is registered here. */
import { BlockError } from "@spindle/base";
import {
  blkdebugFilter,
  copyOnReadFilter,
  type DriverDefinition,
  DriverRegistry,
  delayFilter,
  faultFilter,
  nullDriver,
  throttleFilter,
} from "@spindle/block";
import { luksFormat, qcow2Format, rawFormat } from "@spindle/formats";
import { fileDriver, readTextFile } from "@spindle/host-node";

export function driverRegistry(): DriverRegistry {
  return new DriverRegistry([
    fileDriver,
    nullDriver,
    rawFormat,
    qcow2Format,
    luksFormat,
    blkdebugFilter(readTextFile),
    copyOnReadFilter,
    delayFilter,
    faultFilter,
    throttleFilter,
  ]);
}

/** Formats of which everybody knows that they are for reading only; they are not read here. */
const READ_ONLY_FORMATS: readonly string[] = ["bochs", "cloop", "dmg"];

/** The driver of that name; undefined for a format that cannot be written. @throws {BlockError} EINVAL when there is none. */
export function formatNamed(format: string): DriverDefinition | undefined {
  const registry = driverRegistry();
  if (registry.has(format)) return registry.get(format);
  if (READ_ONLY_FORMATS.includes(format)) return undefined;
  throw new BlockError("EINVAL", `Unknown file format '${format}'`);
}
