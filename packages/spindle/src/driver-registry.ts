/** Every driver that a graph in Node can open. A new format, protocol or filter is registered here. */
import {
  blkdebugFilter,
  copyOnReadFilter,
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
