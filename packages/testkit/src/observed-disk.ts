/**
 * A disk whose every request the durability model sees, and whose every read it checks: what a simulated guest uses.
 * Requests may run side by side.
 */
import type { Co } from "@spindle/base";
import { IoVector, type WriteFlags } from "@spindle/block";
import type { DurabilityModel, ModelledRequest } from "./durability-model.ts";

/** What a node, a backend and a disk port have in common. */
export interface ObservableDisk {
  read(offset: number, vector: IoVector): Co<void>;
  write(offset: number, vector: IoVector, flags?: WriteFlags): Co<void>;
  writeZeroes(offset: number, length: number, flags?: WriteFlags): Co<void>;
  discard(offset: number, length: number): Co<void>;
  flush(): Co<void>;
}

export class ObservedDisk {
  readonly model: DurabilityModel;
  readonly #disk: ObservableDisk;

  constructor(disk: ObservableDisk, model: DurabilityModel) {
    this.#disk = disk;
    this.model = model;
  }

  /** Reads and checks. @throws {Error} when a sector holds what it must not. */
  *read(offset: number, length: number): Co<Uint8Array> {
    const begun = this.model.timeline.next();
    const bytes = new Uint8Array(length).fill(0xee);
    yield* this.#disk.read(offset, IoVector.of(bytes));
    const mismatch = this.model.readMismatch(offset, bytes, begun);
    if (mismatch !== undefined) throw new Error(`wrong data: ${mismatch}`);
    return bytes;
  }

  *write(offset: number, bytes: Uint8Array, flags: WriteFlags = {}): Co<void> {
    const request = this.model.begin({ kind: "write", offset, bytes, fua: flags.fua === true });
    yield* this.#observe(request, this.#disk.write(offset, IoVector.of(bytes), flags));
  }

  *writeZeroes(offset: number, length: number, flags: WriteFlags = {}): Co<void> {
    const request = this.model.begin({ kind: "zero", offset, length, fua: flags.fua === true });
    yield* this.#observe(request, this.#disk.writeZeroes(offset, length, flags));
  }

  *discard(offset: number, length: number): Co<void> {
    const request = this.model.begin({ kind: "discard", offset, length });
    yield* this.#observe(request, this.#disk.discard(offset, length));
  }

  *flush(): Co<void> {
    yield* this.#observe(this.model.begin({ kind: "flush" }), this.#disk.flush());
  }

  *#observe(request: ModelledRequest, work: Co<void>): Co<void> {
    try {
      yield* work;
    } catch (error) {
      this.model.end(request, false);
      throw error;
    }
    this.model.end(request);
  }
}
