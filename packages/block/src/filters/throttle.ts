/**
 * Filter `throttle`: holds requests back so that bytes and requests per second stay below limits. Requests wait in the
 * order in which they came; after a rest, what was saved up in 100 ms may pass at once.
 */
import { type Clock, type Co, sleep } from "@spindle/base";
import type { WriteFlags } from "../driver.ts";
import type { IoVector } from "../io-vector.ts";
import type { DriverDefinition, OpenRequest } from "../registry.ts";
import { FilterDriver } from "./filter-driver.ts";
import { limitOption } from "./limit-option.ts";

/** How long an idle bucket saves up what it did not use. */
const BURST_MS = 100;

/** A leaky bucket that books each request to the time at which it may start. */
class Bucket {
  readonly #unitsPerMs: number;
  #freeAtMs = Number.NEGATIVE_INFINITY;

  constructor(unitsPerSecond: number) {
    this.#unitsPerMs = unitsPerSecond / 1000;
  }

  /** Books `units` and returns when they may pass. */
  book(units: number, nowMs: number): number {
    if (this.#unitsPerMs === 0) return nowMs;
    const startMs = Math.max(this.#freeAtMs, nowMs - BURST_MS);
    this.#freeAtMs = startMs + units / this.#unitsPerMs;
    return startMs;
  }
}

const LIMITS = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"] as const;

class ThrottleDriver extends FilterDriver {
  readonly name = "throttle";
  readonly #clock: Clock;
  readonly #buckets: Readonly<Record<(typeof LIMITS)[number], Bucket>>;

  constructor(request: OpenRequest) {
    super(request.children);
    this.#clock = request.environment.clock;
    const buckets = LIMITS.map((limit) => [limit, new Bucket(limitOption(request.options, limit))] as const);
    this.#buckets = Object.fromEntries(buckets) as Record<(typeof LIMITS)[number], Bucket>;
  }

  override *read(offset: number, vector: IoVector): Co<void> {
    yield* this.#pass("read", vector.length);
    yield* super.read(offset, vector);
  }
  override *write(offset: number, vector: IoVector, flags: WriteFlags): Co<void> {
    yield* this.#pass("write", vector.length);
    yield* super.write(offset, vector, flags);
  }
  override *writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    yield* this.#pass("write", length);
    yield* super.writeZeroes(offset, length, flags);
  }
  override *discard(offset: number, length: number): Co<void> {
    yield* this.#pass("write", length);
    yield* super.discard(offset, length);
  }

  *#pass(direction: "read" | "write", bytes: number): Co<void> {
    const nowMs = this.#clock.now();
    const startMs = Math.max(
      this.#buckets["bps-total"].book(bytes, nowMs),
      this.#buckets[`bps-${direction}`].book(bytes, nowMs),
      this.#buckets["iops-total"].book(1, nowMs),
      this.#buckets[`iops-${direction}`].book(1, nowMs),
    );
    if (startMs > nowMs) yield* sleep(this.#clock, startMs - nowMs);
  }
}

/** Options: `bps-total`, `bps-read`, `bps-write` (bytes a second), `iops-...` (requests a second); 0 is unlimited. */
export const throttleFilter: DriverDefinition = {
  name: "throttle",
  kind: "filter",
  options: Object.fromEntries(LIMITS.map((limit) => [limit, "number" as const])),
  *open(request: OpenRequest) {
    return new ThrottleDriver(request);
  },
};
