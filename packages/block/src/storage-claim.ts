/**
 * What the user of a storage does with it, and what it cannot have other programs do meanwhile. A node that is opened
 * over another claims it before it looks at a byte of it; the claim goes down to the driver of the host's file, which
 * tells other processes (host-node/src/image-lock.ts).
 */
export interface StorageClaim {
  readonly write: boolean;
  readonly resize: boolean;
  /** Nobody else may write or resize it: it holds structures that the user keeps in memory, or a guest's disk. */
  readonly exclusive: boolean;
}
