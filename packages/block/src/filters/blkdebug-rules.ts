/**
 * The rules of a `blkdebug` node: a small state machine that moves with the events that the format above tells of. A rule
 * fails requests from its event on, changes the state, or stops whoever comes by.
 */
import { BlockError, type Co, type ErrnoName, errnoText, until } from "@spindle/base";
import { type BreakpointListener, type Breakpoints, type DebugEvent, isDebugEvent } from "../debug-event.ts";

export type DebugOperation = "read" | "write" | "write-zeroes" | "discard" | "flush" | "block-status";

interface AnyRule {
  readonly event: DebugEvent;
  /** The rule holds in this state alone; in each when 0. */
  readonly state: number;
}

/** From the event on, until another one makes rules of its own count, requests fail. */
export interface InjectRule extends AnyRule {
  readonly action: "inject-error";
  /** Undefined lets requests pass that an earlier rule would fail. */
  readonly code: ErrnoName | undefined;
  readonly operations: readonly DebugOperation[];
  /** Only requests that touch this byte; undefined for all. */
  readonly offset: number | undefined;
  readonly once: boolean;
}

interface StateRule extends AnyRule {
  readonly action: "set-state";
  readonly newState: number;
}

interface BreakRule extends AnyRule {
  readonly action: "suspend";
  readonly tag: string;
  readonly listener: BreakpointListener;
}

export type BlkdebugRule = InjectRule | StateRule;

interface Suspended {
  readonly tag: string;
  readonly listener: BreakpointListener;
  goesOn: boolean;
}

export class BlkdebugRules implements Breakpoints {
  readonly #rules: Set<BlkdebugRule | BreakRule>;
  /** What fails requests now; the newest first. */
  #active: InjectRule[] = [];
  #suspended: Suspended[] = [];
  #state = 1;

  constructor(rules: readonly BlkdebugRule[]) {
    this.#rules = new Set(rules);
    this.#enter("none");
  }

  /** Something is about to happen. Returns when whoever stopped here may go on. */
  *event(event: DebugEvent): Co<void> {
    for (const stop of this.#enter(event)) yield* until(() => stop.goesOn);
  }

  /**
   * Looks whether a request is to fail.
   * @throws {BlockError} the error of the rule that applies.
   */
  check(operation: DebugOperation, offset: number, length: number): void {
    const rule = this.#active.find(
      (one) =>
        one.operations.includes(operation) &&
        (one.offset === undefined || (one.offset >= offset && one.offset < offset + length)),
    );
    if (rule?.code === undefined) return;
    if (rule.once) {
      this.#rules.delete(rule);
      this.#active = this.#active.filter((one) => one !== rule);
    }
    throw new BlockError(rule.code, errnoText(rule.code), { operation, offset, length });
  }

  set(event: string, tag: string, listener: BreakpointListener): void {
    if (!isDebugEvent(event)) throw new BlockError("ENOENT", `Invalid event name "${event}"`);
    this.#rules.add({ action: "suspend", event, state: 0, tag, listener });
  }

  remove(tag: string): boolean {
    let found = false;
    for (const rule of this.#rules) if (rule.action === "suspend" && rule.tag === tag) found = this.#rules.delete(rule);
    while (this.resume(tag));
    return found;
  }

  resume(tag: string): boolean {
    const stop = this.#suspended.find((one) => one.tag === tag);
    if (stop === undefined) return false;
    this.#suspended = this.#suspended.filter((one) => one !== stop);
    stop.listener.resumed(tag);
    stop.goesOn = true;
    return true;
  }

  isSuspended(tag: string): boolean {
    return this.#suspended.some((one) => one.tag === tag);
  }

  /** @returns where the caller has to stop */
  #enter(event: DebugEvent): Suspended[] {
    const rules = [...this.#rules].filter(
      (rule) => rule.event === event && (rule.state === 0 || rule.state === this.#state),
    );
    const injections = rules.filter((rule) => rule.action === "inject-error");
    if (injections.length > 0) this.#active = injections.reverse();
    for (const rule of rules) if (rule.action === "set-state") this.#state = rule.newState;
    return rules.filter((rule) => rule.action === "suspend").map((rule) => this.#suspend(rule));
  }

  #suspend(rule: BreakRule): Suspended {
    const { tag, listener } = rule;
    this.#rules.delete(rule);
    const stop: Suspended = { tag, listener, goesOn: false };
    this.#suspended.unshift(stop);
    listener.stopped(tag);
    return stop;
  }
}
