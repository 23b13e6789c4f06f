/**
 * Filter `delay`: every request takes longer by a fixed time, as on a slow network, while any number of them run side
 * by side. For tests and benchmarks; the counterpart of nbdkit's delay filter.
 */
import { type Clock, type Co, sleep } from "@spindle/base";
import type { WriteFlags } from "../driver.ts";
import type { IoVector } from "../io-vector.ts";
import type { DriverDefinition, OpenRequest } from "../registry.ts";
import { FilterDriver } from "./filter-driver.ts";
import { limitOption } from "./limit-option.ts";

class DelayDriver extends FilterDriver {
  readonly name = "delay";
  readonly #clock: Clock;
  readonly #readMs: number;
  readonly #writeMs: number;
  readonly #options: Readonly<Record<string, unknown>>;

  constructor(request: OpenRequest) {
    super(request.children);
    this.#clock = request.environment.clock;
    this.#readMs = limitOption(request.options, "read-ms");
    this.#writeMs = limitOption(request.options, "write-ms");
    this.#options = request.options;
  }

  override *read(offset: number, vector: IoVector): Co<void> {
    yield* sleep(this.#clock, this.#readMs);
    yield* super.read(offset, vector);
  }
  override *write(offset: number, vector: IoVector, flags: WriteFlags): Co<void> {
    yield* sleep(this.#clock, this.#writeMs);
    yield* super.write(offset, vector, flags);
  }
  override *writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    yield* sleep(this.#clock, this.#writeMs);
    yield* super.writeZeroes(offset, length, flags);
  }
  override *discard(offset: number, length: number): Co<void> {
    yield* sleep(this.#clock, this.#writeMs);
    yield* super.discard(offset, length);
  }
  override *flush(): Co<void> {
    yield* sleep(this.#clock, this.#writeMs);
    yield* super.flush();
  }
  shareableOptions(): Readonly<Record<string, unknown>> {
    return this.#options;
  }
}

/** Options: `read-ms` and `write-ms` (writes, zeroes, discards and flushes), both 0 when absent. */
export const delayFilter: DriverDefinition = {
  name: "delay",
  kind: "filter",
  options: { "read-ms": "number", "write-ms": "number" },
  *open(request: OpenRequest) {
    return new DelayDriver(request);
  },
};
