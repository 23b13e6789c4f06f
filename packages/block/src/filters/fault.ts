/**
 * Filter `fault`: makes chosen requests fail, as QEMU's blkdebug does. Rules are looked at in order; the first that
 * applies decides.
 */
import { BlockError, type Co, type ErrnoName } from "@spindle/base";
import type { WriteFlags } from "../driver.ts";
import type { IoVector } from "../io-vector.ts";
import type { DriverDefinition, OpenRequest } from "../registry.ts";
import { FilterDriver } from "./filter-driver.ts";

const OPERATIONS = ["read", "write", "write-zeroes", "discard", "flush"] as const;
type FaultOperation = (typeof OPERATIONS)[number];

const ERRNOS: readonly ErrnoName[] = ["EIO", "ENOSPC", "EACCES", "EPERM", "ETIMEDOUT", "ENOTSUP"];

/** One rule as it stands in the options. */
interface FaultRule {
  readonly operation: FaultOperation;
  readonly errno: ErrnoName;
  /** Only requests that touch this range; the whole disk when absent. */
  readonly offset: number;
  readonly length: number;
  /** How many matching requests pass first. */
  readonly after: number;
  readonly once: boolean;
}

class FaultDriver extends FilterDriver {
  readonly name = "fault";
  readonly #nodeName: string;
  readonly #rules: { readonly rule: FaultRule; passed: number; spent: boolean }[];

  constructor(request: OpenRequest) {
    super(request.children);
    this.#nodeName = request.nodeName;
    const rules = request.options["rules"] ?? [];
    if (!Array.isArray(rules)) throw new BlockError("EINVAL", "Invalid parameter type for 'rules', expected: array");
    this.#rules = rules.map((rule) => ({ rule: checkRule(rule), passed: 0, spent: false }));
  }

  override *read(offset: number, vector: IoVector): Co<void> {
    this.#check("read", offset, vector.length);
    yield* super.read(offset, vector);
  }
  override *write(offset: number, vector: IoVector, flags: WriteFlags): Co<void> {
    this.#check("write", offset, vector.length);
    yield* super.write(offset, vector, flags);
  }
  override *writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    this.#check("write-zeroes", offset, length);
    yield* super.writeZeroes(offset, length, flags);
  }
  override *discard(offset: number, length: number): Co<void> {
    this.#check("discard", offset, length);
    yield* super.discard(offset, length);
  }
  override *flush(): Co<void> {
    this.#check("flush", 0, Number.MAX_SAFE_INTEGER);
    yield* super.flush();
  }

  #check(operation: FaultOperation, offset: number, length: number): void {
    for (const state of this.#rules) {
      const { rule } = state;
      const touches = offset < rule.offset + rule.length && rule.offset < offset + length;
      if (state.spent || rule.operation !== operation || !touches) continue;
      if (state.passed < rule.after) {
        state.passed += 1;
        continue;
      }
      state.spent = rule.once;
      const context = { node: this.#nodeName, operation, offset, length };
      throw new BlockError(rule.errno, `injected ${rule.errno} on ${operation}`, context);
    }
  }
}

function checkRule(value: unknown): FaultRule {
  if (typeof value !== "object" || value === null) throw invalid("a rule is an object");
  const {
    operation,
    errno = "EIO",
    offset = 0,
    length = Number.MAX_SAFE_INTEGER,
    after = 0,
    once = false,
    ...rest
  } = value as Record<string, unknown>;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw invalid(`Parameter '${unknown}' is unexpected`);
  if (!OPERATIONS.includes(operation as FaultOperation)) throw invalid(`operation is one of ${OPERATIONS.join(", ")}`);
  if (!ERRNOS.includes(errno as ErrnoName)) throw invalid(`errno is one of ${ERRNOS.join(", ")}`);
  for (const number of [offset, length, after])
    if (!Number.isSafeInteger(number) || (number as number) < 0) throw invalid("offset, length and after are numbers");
  if (typeof once !== "boolean") throw invalid("once is a boolean");
  return { operation, errno, offset, length, after, once } as FaultRule;
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", `fault rules: ${message}`);
}

/** Options: `rules`, an array of `{operation, errno, offset, length, after, once}`; all but `operation` may be absent. */
export const faultFilter: DriverDefinition = {
  name: "fault",
  kind: "filter",
  options: { rules: "object" },
  *open(request: OpenRequest) {
    return new FaultDriver(request);
  },
};
