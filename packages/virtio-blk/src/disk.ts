/** What the device needs of a disk. */
import type { Co } from "@spindle/base";
import type { IoVector, WriteFlags } from "@spindle/block";

/**
 * The disk behind the device. Offsets and lengths are bytes; requests run side by side, and errors are BlockErrors. The
 * vectors are guest memory: the guest may change them while a write is under way.
 */
export interface Disk {
  readonly length: number;
  readonly readOnly: boolean;
  read(offset: number, vector: IoVector): Co<void>;
  write(offset: number, vector: IoVector, flags?: WriteFlags): Co<void>;
  writeZeroes(offset: number, length: number, flags?: WriteFlags): Co<void>;
  discard(offset: number, length: number): Co<void>;
  flush(): Co<void>;
}
