/**
 * Filter `blkdebug`: fails or stops chosen requests at chosen events, and narrows what the node below can do, as QEMU's
 * driver of that name does. Formats above tell it of events through `BlockNode.tell`.
 */
import { alignDown, alignUp, BlockError, type Co, isPowerOfTwo } from "@spindle/base";
import type { DebugEvent } from "../debug-event.ts";
import type { WriteFlags } from "../driver.ts";
import type { Extent } from "../extent.ts";
import { IoVector } from "../io-vector.ts";
import type { DriverDefinition, OpenRequest } from "../registry.ts";
import { blkdebugConfig, blkdebugRules } from "./blkdebug-options.ts";
import { BlkdebugRules } from "./blkdebug-rules.ts";
import { FilterDriver } from "./filter-driver.ts";

/** Zeros are written in pieces where they cannot be had otherwise. */
const ZERO_PIECE_BYTES = 64 * 1024;

/** Limits are smaller than this. */
const LIMIT_MAX: number = 2 ** 31 - 1;

/** What the node can do at once, in bytes. */
interface Limits {
  readonly alignment: number;
  readonly transferMost: number;
  readonly zeroUnit: number;
  readonly zeroMost: number;
  readonly discardUnit: number;
  readonly discardMost: number;
}

class BlkdebugDriver extends FilterDriver {
  readonly name = "blkdebug";
  readonly breakpoints: BlkdebugRules;
  readonly #limits: Limits;
  /** A write was tried since the last flush; a flush of nothing is none, and cannot fail. */
  #written = false;

  constructor(request: OpenRequest, rules: BlkdebugRules) {
    super(request.children);
    this.breakpoints = rules;
    this.#limits = limitsOf(request.options, this.file.driver.requestAlignment);
  }

  override get requestAlignment(): number {
    return this.#limits.alignment;
  }

  debugEvent(event: DebugEvent): Co<void> {
    return this.breakpoints.event(event);
  }

  override *read(offset: number, vector: IoVector): Co<void> {
    for (const { at, length } of pieces(offset, vector.length, 1, this.#limits.transferMost)) {
      this.breakpoints.check("read", at, length);
      yield* super.read(at, vector.slice(at - offset, length));
    }
  }
  override *write(offset: number, vector: IoVector, flags: WriteFlags): Co<void> {
    for (const { at, length } of pieces(offset, vector.length, 1, this.#limits.transferMost)) {
      yield* this.breakpoints.event("pwritev");
      this.#written = true;
      this.breakpoints.check("write", at, length);
      yield* super.write(at, vector.slice(at - offset, length), flags);
    }
    yield* this.breakpoints.event("pwritev_done");
  }

  /** What is smaller than the unit, or cut off by it, is written. */
  override *writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    const { zeroUnit, zeroMost } = this.#limits;
    for (const piece of pieces(offset, length, zeroUnit, zeroMost)) {
      if (piece.whole) {
        yield* this.breakpoints.event("pwritev_zero");
        this.#written = true;
        this.breakpoints.check("write-zeroes", piece.at, piece.length);
        yield* super.writeZeroes(piece.at, piece.length, flags);
      } else yield* this.#storeZeroes(piece.at, piece.length, flags);
    }
  }
  *#storeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    if (flags.noFallback === true) throw new BlockError("ENOTSUP", "zeros would have to be written");
    const zeros = new Uint8Array(Math.min(length, ZERO_PIECE_BYTES));
    for (const { at, length: part } of pieces(offset, length, 1, ZERO_PIECE_BYTES))
      yield* this.write(at, IoVector.of(zeros.subarray(0, part)), flags);
  }

  override *discard(offset: number, length: number): Co<void> {
    const { discardUnit, discardMost } = this.#limits;
    for (const piece of pieces(offset, length, discardUnit, discardMost)) {
      this.#written = true;
      this.breakpoints.check("discard", piece.at, piece.length);
      yield* super.discard(piece.at, piece.length);
    }
  }
  override *flush(): Co<void> {
    yield* this.breakpoints.event("flush_to_os");
    yield* this.breakpoints.event("flush_to_disk");
    if (!this.#written) return;
    this.breakpoints.check("flush", 0, 0);
    this.#written = false;
    yield* super.flush();
  }
  override *blockStatus(offset: number, length: number): Co<Extent> {
    this.breakpoints.check("block-status", offset, length);
    return yield* super.blockStatus(offset, length);
  }
}

interface Piece {
  readonly at: number;
  readonly length: number;
  /** A multiple of the unit at a multiple of it. */
  readonly whole: boolean;
}

/** Cuts a range at multiples of a unit, and what lies between them to what is no longer than `most`. */
function* pieces(offset: number, length: number, unit: number, most: number): Generator<Piece> {
  const end = offset + length;
  const step = Math.max(unit, alignDown(most, unit));
  for (let at = offset; at < end; ) {
    const whole = at % unit === 0 && end - at >= unit;
    const stop = whole ? at + Math.min(step, alignDown(end - at, unit)) : Math.min(end, alignUp(at + 1, unit));
    yield { at, length: stop - at, whole };
    at = stop;
  }
}

/** @throws {BlockError} EINVAL with QEMU's text when they contradict each other. */
function limitsOf(options: OpenRequest["options"], below: number): Limits {
  const given = (key: string): number => (options[key] ?? 0) as number;
  const check = (key: string, unit: number): number => {
    const value = given(key);
    if (value < 0 || value >= LIMIT_MAX || value % unit !== 0) throw unmet(key, value);
    return value;
  };
  const alignment = Math.max(given("align"), below);
  if (alignment >= LIMIT_MAX || !isPowerOfTwo(alignment)) throw unmet("align", alignment);
  const zeroUnit = Math.max(check("opt-write-zero", alignment), alignment);
  const discardUnit = Math.max(check("opt-discard", alignment), alignment);
  const orNone = (value: number): number => (value === 0 ? Number.MAX_SAFE_INTEGER : value);
  return {
    alignment,
    transferMost: orNone(check("max-transfer", alignment)),
    zeroUnit,
    zeroMost: orNone(check("max-write-zero", zeroUnit)),
    discardUnit,
    discardMost: orNone(check("max-discard", discardUnit)),
  };
}

function unmet(key: string, value: number): BlockError {
  return new BlockError("EINVAL", `Cannot meet constraints with ${key} ${value}`);
}

/**
 * The driver's definition. Options: `image`, the node below; `config`, a file of rules; `inject-error` and `set-state`, rules;
 * `align`, `max-transfer`, `opt-write-zero`, `max-write-zero`, `opt-discard` and `max-discard`, bytes.
 * @param readText the text of a file of the host; `what` it is, for messages
 */
export function blkdebugFilter(readText: (filename: string, what: string) => Co<string>): DriverDefinition {
  return {
    name: "blkdebug",
    kind: "filter",
    fileOption: "image",
    options: {
      config: "string",
      "inject-error": "object",
      "set-state": "object",
      align: "number",
      "max-transfer": "number",
      "opt-write-zero": "number",
      "max-write-zero": "number",
      "opt-discard": "number",
      "max-discard": "number",
    },
    *open(request: OpenRequest) {
      const { config } = request.options;
      const isNamed = config !== undefined && config !== "";
      const named = isNamed ? blkdebugConfig(yield* readText(config as string, "blkdebug config file")) : [];
      return new BlkdebugDriver(request, new BlkdebugRules([...named, ...blkdebugRules(request.options)]));
    },
  };
}
