/** The one error of the block layer, as every package throws it and every wire (virtio, QMP, exit code) maps it. */

/** Names of errno values as Node spells them. */
export type ErrnoName =
  | "EACCES"
  | "EAGAIN"
  | "EBUSY"
  | "ECANCELED"
  | "EDEADLK"
  | "EEXIST"
  | "EFBIG"
  | "EINVAL"
  | "EIO"
  | "EISDIR"
  | "ENOENT"
  | "ENOMEDIUM"
  | "ENOSPC"
  | "ENOTSUP"
  | "EPERM"
  | "EROFS"
  | "ETIMEDOUT";

/** Where an error happened. Offsets and lengths are bytes. */
export interface ErrorContext {
  readonly node?: string;
  readonly operation?: string;
  readonly offset?: number;
  readonly length?: number;
  readonly path?: string;
  /** The image's metadata contradicts itself: reading on would be a guess. */
  readonly corrupt?: boolean;
  /** A sentence for the user that follows the message on a line of its own. */
  readonly hint?: string;
}

export class BlockError extends Error {
  override readonly name = "BlockError";
  readonly code: ErrnoName;
  readonly context: ErrorContext;

  constructor(code: ErrnoName, message: string, context: ErrorContext = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.context = context;
  }
}

/**
 * Whether a value is a {@link BlockError}, and of this code when one is given. It looks at the name and the code, not
 * at the class, so it also holds for an error that came from another thread or another copy of this package.
 */
export function isBlockError(error: unknown, code?: ErrnoName): error is BlockError {
  if (typeof error !== "object" || error === null) return false;
  const candidate = error as { name?: unknown; code?: unknown };
  return (
    candidate.name === "BlockError" &&
    typeof candidate.code === "string" &&
    (code === undefined || candidate.code === code)
  );
}

/** What is left of an error on the far side of a thread boundary: structured clone drops the class and the code. */
export interface ErrorRecord {
  readonly code: ErrnoName;
  readonly message: string;
  readonly context: ErrorContext;
}

/** Makes any thrown value fit to cross a thread boundary; what is not a {@link BlockError} becomes an EIO. */
export function encodeError(error: unknown): ErrorRecord {
  if (isBlockError(error)) return { code: error.code, message: error.message, context: error.context };
  return { code: "EIO", message: error instanceof Error ? error.message : String(error), context: {} };
}

/** The inverse of {@link encodeError}. */
export function decodeError(record: ErrorRecord): BlockError {
  return new BlockError(record.code, record.message, record.context);
}
