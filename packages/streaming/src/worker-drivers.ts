/** The drivers through which a copy worker reads a chain: all that a thread of this process can open again. */
import {
  copyOnReadFilter,
  type DriverDefinition,
  DriverRegistry,
  delayFilter,
  faultFilter,
  throttleFilter,
} from "@spindle/block";
import { qcow2Format, rawFormat } from "@spindle/formats";
import { fileDriver } from "@spindle/host-node";

const FILTERS: readonly DriverDefinition[] = [copyOnReadFilter, delayFilter, faultFilter, throttleFilter];

export function workerDrivers(): DriverRegistry {
  return new DriverRegistry([fileDriver, rawFormat, qcow2Format, ...FILTERS]);
}
