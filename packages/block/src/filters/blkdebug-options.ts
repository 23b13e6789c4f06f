/** The rules of a `blkdebug` node as they stand in its options or in a file, in QEMU's words. */
import { BlockError, errnoName, SECTOR_SIZE } from "@spindle/base";
import { type DebugEvent, isDebugEvent } from "../debug-event.ts";
import type { BlkdebugRule, DebugOperation, InjectRule } from "./blkdebug-rules.ts";

const OPERATIONS: readonly DebugOperation[] = ["read", "write", "write-zeroes", "discard", "flush", "block-status"];

/** What fails unless a rule says what does. */
const DEFAULT_OPERATIONS: readonly DebugOperation[] = ["read", "write", "write-zeroes", "discard", "flush"];

const EIO = 5;

type Entry = Readonly<Record<string, unknown>>;

const ACTIONS = {
  "inject-error": injectRule,
  "set-state": stateRule,
} as const;
type Action = keyof typeof ACTIONS;

/** The rules of the options `inject-error` and `set-state`: an entry, or a list of them. @throws {BlockError} EINVAL */
export function blkdebugRules(options: Entry): BlkdebugRule[] {
  return (Object.keys(ACTIONS) as Action[]).flatMap((action) => {
    const given = options[action] ?? [];
    const entries = Array.isArray(given) ? given : [given];
    return entries.map((entry) => ACTIONS[action](entry as Entry));
  });
}

/**
 * The rules of a file: `[inject-error]` or `[set-state]`, and below it lines of `key = "value"`; `#` begins a comment.
 * @throws {BlockError} EINVAL when it is something else.
 */
export function blkdebugConfig(text: string): BlkdebugRule[] {
  const groups: { readonly action: Action; readonly entry: Record<string, unknown> }[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (/^\s*(#|$)/.test(line)) continue;
    const [, section] = /^\s*\[([^\]"\s]+)\]\s*$/.exec(line) ?? [];
    const [, key, value] = /^\s*([^\s="]+)\s*=\s*"([^"]*)"\s*$/.exec(line) ?? [];
    const group = groups.at(-1);
    if (section !== undefined && Object.hasOwn(ACTIONS, section)) groups.push({ action: section as Action, entry: {} });
    else if (section !== undefined) throw invalid(`There is no option group '${section}'`);
    else if (key === undefined) throw invalid(`blkdebug config, line ${index + 1}: parse error`);
    else if (group === undefined) throw invalid("no group defined");
    else group.entry[key] = value;
  }
  return groups.map(({ action, entry }) => ACTIONS[action](entry));
}

function injectRule({ event, state, iotype, errno, sector, once, immediately, ...rest }: Entry): InjectRule {
  refuseMore(rest);
  // Errors are no slower than other answers here, so that there is no difference.
  switchOf("immediately", immediately);
  const number = numberOf("errno", errno, EIO);
  const code = number === 0 ? undefined : errnoName(number);
  if (number !== 0 && code === undefined) throw invalid(`errno ${number} is not known`);
  const at = numberOf("sector", sector, -1);
  return {
    action: "inject-error",
    event: eventOf(event),
    state: numberOf("state", state, 0),
    code,
    operations: iotype === undefined ? DEFAULT_OPERATIONS : [operationOf(iotype)],
    offset: at < 0 ? undefined : at * SECTOR_SIZE,
    once: switchOf("once", once),
  };
}

function stateRule({ event, state, new_state: newState, ...rest }: Entry): BlkdebugRule {
  refuseMore(rest);
  return {
    action: "set-state",
    event: eventOf(event),
    state: numberOf("state", state, 0),
    newState: numberOf("new_state", newState, 0),
  };
}

function eventOf(event: unknown): DebugEvent {
  if (event === undefined) throw invalid("Missing event name for rule");
  if (typeof event === "string" && isDebugEvent(event)) return event;
  throw invalid(`invalid parameter value: ${String(event)}`);
}

function operationOf(iotype: unknown): DebugOperation {
  const operation = OPERATIONS.find((one) => one === iotype);
  if (operation !== undefined) return operation;
  throw invalid(`invalid parameter value: ${String(iotype)}`);
}

/** A text in a file, a number or a text in options. */
function numberOf(key: string, value: unknown, otherwise: number): number {
  if (value === undefined) return otherwise;
  const number = typeof value === "string" ? (/^-?\d+$/.test(value) ? Number(value) : Number.NaN) : value;
  if (Number.isSafeInteger(number)) return number as number;
  throw invalid(`Parameter '${key}' expects a number`);
}

function switchOf(key: string, value: unknown): boolean {
  if (value === undefined || value === false || value === "off" || value === "no") return false;
  if (value === true || value === "on" || value === "yes") return true;
  throw invalid(`Parameter '${key}' expects 'on' or 'off'`);
}

function refuseMore(rest: Entry): void {
  const [key] = Object.keys(rest);
  if (key !== undefined) throw invalid(`Invalid parameter '${key}'`);
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
