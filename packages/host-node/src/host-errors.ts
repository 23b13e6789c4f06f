/** Errors of system calls as BlockErrors. */
import { getSystemErrorMap } from "node:util";
import { BlockError, type ErrnoName, type ErrorContext } from "@spindle/base";

/** errno names as the block layer knows them; names that are missing here become EIO. */
const CODES: ReadonlyMap<string, ErrnoName> = new Map<string, ErrnoName>([
  ...(
    [
      "EACCES",
      "EAGAIN",
      "EBUSY",
      "ECANCELED",
      "EDEADLK",
      "EEXIST",
      "EFBIG",
      "EINVAL",
      "EIO",
      "EISDIR",
      "ENOENT",
      "ENOMEDIUM",
      "ENOSPC",
      "ENOTSUP",
      "EPERM",
      "EROFS",
      "ETIMEDOUT",
    ] as const
  ).map((name): [string, ErrnoName] => [name, name]),
  ["EDQUOT", "ENOSPC"],
  ["ENOSYS", "ENOTSUP"],
  ["EOPNOTSUPP", "ENOTSUP"],
  ["ENOTDIR", "ENOENT"],
  ["ETXTBSY", "EBUSY"],
]);

/**
 * The BlockError for what a call of `node:fs` threw.
 * @param message what could not be done, without the reason
 */
export function hostError(error: unknown, message: string, context: ErrorContext): BlockError {
  const name = (error as { code?: unknown } | null)?.code;
  const code = (typeof name === "string" ? CODES.get(name) : undefined) ?? "EIO";
  return new BlockError(code, `${message}: ${reason(error)}`, context, error);
}

/** The reason in the words of the C library, as far as libuv's differ only in the first letter. */
function reason(error: unknown): string {
  const { errno, code } = (error ?? {}) as { errno?: unknown; code?: unknown };
  const text = typeof errno === "number" ? getSystemErrorMap().get(errno)?.[1] : undefined;
  if (text !== undefined) return text.charAt(0).toUpperCase() + text.slice(1);
  if (typeof code === "string") return code;
  return error instanceof Error ? error.message : String(error);
}

/** An error of a call through koffi, shaped like those of `node:fs`. */
export function systemError(errno: number, call: string): Error & { errno: number; code: string } {
  const [code, text] = getSystemErrorMap().get(-errno) ?? [`E${errno}`, "unknown error"];
  return Object.assign(new Error(`${code}: ${text}, ${call}`), { errno: -errno, code });
}
