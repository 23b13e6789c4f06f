/**
 * What a disk may hold when requests run side by side and the power may fail: for each sector the set of values that are
 * right. A write is atomic for each sector and no more. A write that failed may have reached any of its sectors. A
 * discard leaves zeros, or what was there.
 */
import { assert, SECTOR_SIZE } from "@spindle/base";
import { Timeline } from "./timeline.ts";

export type ModelledKind = "write" | "zero" | "discard" | "flush";

/** One request as its issuer saw it. Times are those of the model's timeline. */
export interface ModelledRequest {
  readonly kind: ModelledKind;
  readonly offset: number;
  readonly length: number;
  readonly bytes: Uint8Array | null;
  /** It is durable when it completes, without a flush. */
  readonly fua: boolean;
  readonly begun: number;
  /** Infinity while it is in flight. */
  ended: number;
  succeeded: boolean;
}

interface RequestShape {
  readonly kind: ModelledKind;
  readonly offset?: number;
  readonly length?: number;
  readonly bytes?: Uint8Array;
  readonly fua?: boolean;
}

const BEFORE_ALL = -1;

export class DurabilityModel {
  readonly length: number;
  readonly timeline: Timeline;
  readonly #initial: ModelledRequest;
  /** By sector: the requests that changed it, in the order in which they began. */
  readonly #versions: Map<number, ModelledRequest[]> = new Map();
  readonly #flushes: ModelledRequest[] = [];

  /**
   * @param content what the disk holds at first, durably, or its length for zeros; whole sectors
   * @param timeline shared with the recorder of the storage, when crash states are to be judged
   */
  constructor(content: Uint8Array | number, timeline: Timeline = new Timeline()) {
    const bytes = typeof content === "number" ? null : content.slice();
    this.length = bytes === null ? (content as number) : bytes.length;
    assert(this.length % SECTOR_SIZE === 0, "a modelled disk is whole sectors long");
    this.timeline = timeline;
    this.#initial = {
      kind: bytes === null ? "zero" : "write",
      offset: 0,
      length: this.length,
      bytes,
      fua: true,
      begun: BEFORE_ALL,
      ended: BEFORE_ALL,
      succeeded: true,
    };
  }

  /** Notes that a request is about to be made. Ranges are whole sectors. Bytes are copied. */
  begin(shape: RequestShape): ModelledRequest {
    const bytes = shape.bytes?.slice() ?? null;
    const request: ModelledRequest = {
      kind: shape.kind,
      offset: shape.offset ?? 0,
      length: bytes?.length ?? shape.length ?? 0,
      bytes,
      fua: shape.fua === true,
      begun: this.timeline.next(),
      ended: Number.POSITIVE_INFINITY,
      succeeded: false,
    };
    assert(request.offset % SECTOR_SIZE === 0 && request.length % SECTOR_SIZE === 0, "modelled ranges are sectors");
    if (request.kind === "flush") this.#flushes.push(request);
    const first = request.offset / SECTOR_SIZE;
    for (let sector = first; sector < first + request.length / SECTOR_SIZE; sector++) {
      const versions = this.#versions.get(sector);
      if (versions === undefined) this.#versions.set(sector, [request]);
      else versions.push(request);
    }
    return request;
  }

  /** Notes that a request has ended. */
  end(request: ModelledRequest, succeeded = true): void {
    request.ended = this.timeline.next();
    request.succeeded = succeeded;
  }

  /**
   * What is wrong with bytes that a read gave, in words; undefined when they are right.
   * @param begun the time at which the read began
   */
  readMismatch(offset: number, bytes: Uint8Array, begun: number): string | undefined {
    return this.#mismatch(offset, bytes, this.timeline.now + 1, (request) => request.ended < begun);
  }

  /** The same for bytes that were found on the disk after the power failed at `time`. */
  crashMismatch(offset: number, bytes: Uint8Array, time: number): string | undefined {
    return this.#mismatch(offset, bytes, time, (request) => this.#isDurable(request, time));
  }

  /**
   * @param end requests that began later cannot be seen
   * @param settled whether a request that succeeded rules out what it has overwritten
   */
  #mismatch(
    offset: number,
    bytes: Uint8Array,
    end: number,
    settled: (request: ModelledRequest) => boolean,
  ): string | undefined {
    for (let at = 0; at < bytes.length; at += SECTOR_SIZE) {
      const sector = (offset + at) / SECTOR_SIZE;
      const found = bytes.subarray(at, at + SECTOR_SIZE);
      const allowed = this.#allowed(sector, end, settled);
      if (allowed.some((request) => holds(request, sector, found))) continue;
      const all = [this.#initial, ...(this.#versions.get(sector) ?? [])];
      const source = all.filter((request) => holds(request, sector, found)).map(describe);
      const what =
        source.length > 0
          ? source.join(" or ")
          : `unknown bytes (${Buffer.from(found.subarray(0, 16)).toString("hex")}...)`;
      return `sector ${sector} holds ${what}, and should hold ${allowed.map(describe).join(" or ")}`;
    }
    return undefined;
  }

  #allowed(sector: number, end: number, settled: (request: ModelledRequest) => boolean): ModelledRequest[] {
    const versions = (this.#versions.get(sector) ?? []).filter((request) => request.begun < end);
    // What ended before the newest settled request began is overwritten for good.
    let newest = BEFORE_ALL;
    for (const request of versions)
      if (request.kind !== "discard" && request.succeeded && settled(request)) newest = Math.max(newest, request.begun);
    const all = [this.#initial, ...versions];
    return all.filter((request) => request.ended >= newest);
  }

  #isDurable(request: ModelledRequest, time: number): boolean {
    if (request.ended > time) return false;
    if (request.fua) return true;
    return this.#flushes.some((flush) => flush.succeeded && flush.begun > request.ended && flush.ended <= time);
  }
}

function holds(request: ModelledRequest, sector: number, found: Uint8Array): boolean {
  if (request.bytes === null) return found.every((byte) => byte === 0);
  const start = sector * SECTOR_SIZE - request.offset;
  for (let index = 0; index < SECTOR_SIZE; index++) if (found[index] !== request.bytes[start + index]) return false;
  return true;
}

function describe({ kind, offset, length, begun, ended, succeeded }: ModelledRequest): string {
  if (begun === BEFORE_ALL) return "the initial content";
  const state = ended === Number.POSITIVE_INFINITY ? "in flight" : `${succeeded ? "done" : "failed"} at ${ended}`;
  return `${kind} ${offset}+${length} (begun at ${begun}, ${state})`;
}
