/** Writes to a descriptor of the process at a given place, whole and blocking. */
import { writeSync } from "node:fs";
import { hostError } from "@spindle/host-node";

/** @throws {BlockError} ENOSPC, EFBIG, EIO and what else the host refuses a write with. */
export function writeAt(descriptor: number, data: Uint8Array, offset: number): void {
  for (let done = 0; done < data.length; ) {
    try {
      done += writeSync(descriptor, data, done, data.length - done, offset + done);
    } catch (error) {
      const context = { operation: "write", offset: offset + done, length: data.length - done };
      throw hostError(error, "could not write copied data", context);
    }
  }
}
