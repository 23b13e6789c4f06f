/** The drivers through which a copy worker reads a chain: all that say how another thread opens them again. */
import { DriverRegistry, delayFilter } from "@spindle/block";
import { qcow2Format, rawFormat } from "@spindle/formats";
import { fileDriver } from "@spindle/host-node";

export function workerDrivers(): DriverRegistry {
  return new DriverRegistry([fileDriver, rawFormat, qcow2Format, delayFilter]);
}
