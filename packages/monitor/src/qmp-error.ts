/** How errors leave through QMP: the one place where a {@link BlockError} becomes a class and a text (qapi/error.json). */
import { BlockError, type ErrnoName, isBlockError } from "@spindle/base";

export type QmpErrorClass = "GenericError" | "CommandNotFound" | "DeviceNotActive" | "DeviceNotFound";

/** An error of which clients may want to know more than its text. */
export class QmpError extends BlockError {
  readonly errorClass: QmpErrorClass;

  constructor(errorClass: QmpErrorClass, code: ErrnoName, message: string) {
    super(code, message);
    this.errorClass = errorClass;
  }
}

/** The value of `error` in a reply. */
export interface QmpErrorReply {
  readonly class: QmpErrorClass;
  readonly desc: string;
}

/** Every error of the block layer has a reply; what is none is a bug and is thrown on. */
export function qmpErrorReply(error: unknown): QmpErrorReply {
  if (!isBlockError(error)) throw error;
  return { class: error instanceof QmpError ? error.errorClass : "GenericError", desc: error.message };
}

export function commandNotFound(name: string): QmpError {
  return new QmpError("CommandNotFound", "ENOTSUP", `The command ${name} has not been found`);
}

export function blockJobNotFound(id: string): QmpError {
  return new QmpError("DeviceNotActive", "ENOENT", `Block job '${id}' not found`);
}

export function parameterMissing(name: string): BlockError {
  return new BlockError("EINVAL", `Parameter '${name}' is missing`);
}

export function parameterUnexpected(name: string): BlockError {
  return new BlockError("EINVAL", `Parameter '${name}' is unexpected`);
}

export function parameterType(name: string, expected: string): BlockError {
  return new BlockError("EINVAL", `Invalid parameter type for '${name}', expected: ${expected}`);
}

export function parameterValue(name: string, value: string): BlockError {
  return new BlockError("EINVAL", `Parameter '${name}' does not accept value '${value}'`);
}
