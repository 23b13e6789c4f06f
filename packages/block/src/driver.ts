/**
 * The contract between a node and its driver. It is written once here and holds for every driver:
 *
 * - Offsets and lengths are bytes. The node has checked that a request lies inside `length()` and is a multiple of
 *   `requestAlignment`, and has registered it with the tracker before the driver sees it.
 * - Requests run side by side. The node orders those that must not meet (see docs/locking.md): an exclusive write
 *   (allocating, zeroing, discarding) never runs beside another write of the same clusters. Reads may run beside
 *   anything but a change of length or chain.
 * - A completed write survives the process, where the driver has metadata of its own after `writeMetadata`; a completed
 *   `flush` makes every write that completed before it survive power loss. Metadata on disk never points at data that is
 *   not there.
 * - Errors are BlockErrors: EIO for what the storage or the image's contents refuse, ENOSPC when it is full.
 */
import type { Co } from "@spindle/base";
import type { ClusterMap } from "./cluster-map.ts";
import type { Breakpoints, DebugEvent } from "./debug-event.ts";
import type { DirtyBitmaps } from "./dirty-bitmaps.ts";
import type { Extent } from "./extent.ts";
import type { InternalSnapshots } from "./internal-snapshots.ts";
import type { IoVector } from "./io-vector.ts";
import type { StorageClaim } from "./storage-claim.ts";

export interface WriteFlags {
  /** The write must be durable when it completes. */
  readonly fua?: boolean;
  /** For zeroes and discards: the space may be given back. */
  readonly mayUnmap?: boolean;
  /** For zeroes: ENOTSUP rather than zeros that are written one by one. */
  readonly noFallback?: boolean;
  /**
   * For writes of data: called when the last of it has its place, so that what is written from then on is laid out behind
   * it. A driver need not call it.
   */
  readonly placed?: () => void;
}

/**
 * For space that is added to an image: nothing; only the metadata that it needs; space of the host, without writing to
 * it; zeros written to all of it.
 */
export type Preallocation = "off" | "metadata" | "falloc" | "full";

export interface BlockDriver {
  /** The driver's QMP name, such as `qcow2`. */
  readonly name: string;
  /** Requests are multiples of this: a power of two, 1 when any byte can be addressed. */
  readonly requestAlignment: number;
  /** A write beyond the end makes the disk longer, as it does with files. */
  readonly growable?: boolean | undefined;
  /** The unit of allocation: requests are tracked rounded to it. 1 for drivers that allocate nothing. */
  readonly clusterSize: number;

  /** The length of the disk as it is now. */
  length(): number;
  read(offset: number, vector: IoVector): Co<void>;
  write(offset: number, vector: IoVector, flags: WriteFlags): Co<void>;
  /**
   * Whether a write of this range changes no metadata, so that it may run beside other writes of the same clusters.
   * Drivers that allocate nothing leave it out: always.
   */
  writesInPlace?(offset: number, length: number): Co<boolean>;
  /** Afterwards the range reads as zeros. */
  writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void>;
  /** Gives the space back where it can. Afterwards the range reads as zeros or as before, but never as older data. */
  discard(offset: number, length: number): Co<void>;
  flush(): Co<void>;
  /**
   * Brings the metadata of completed requests to the file, so that they survive the process. Drivers that keep none in
   * memory leave it out.
   */
  writeMetadata?(): Co<void>;
  /**
   * What this layer alone says of the range: the first run of one kind, from `offset`, at most `length` long and never
   * empty.
   */
  blockStatus(offset: number, length: number): Co<Extent>;
  /**
   * Changes the length; what is added reads as zeros. No request is in flight.
   * @param preallocation what is done for the space of what is added
   * @throws {BlockError} ENOTSUP when the driver cannot change its length, or not in this way.
   */
  truncate(length: number, preallocation?: Preallocation): Co<void>;
  /** Flushes and gives up every resource. The last call. */
  close(): Co<void>;

  /**
   * Adds to what other programs are told of this storage's use, until it is closed. Drivers that own no storage leave it
   * out: the claim goes on to their file.
   * @throws {BlockError} EAGAIN when another program's use is in the way.
   */
  claim?(claim: StorageClaim): Co<void>;

  /**
   * What the format above is about to do. The request that this belongs to may be held up here. Drivers that do not want to
   * know leave it out: `BlockNode.tell` costs little then.
   */
  debugEvent?(event: DebugEvent): Co<void>;
  /** Where events can stop requests. */
  readonly breakpoints?: Breakpoints;

  /** For images made of clusters: how others place data in them without writing metadata. */
  readonly clusters?: ClusterMap | undefined;
  /** How the image's clusters are compressed, when they can be. */
  readonly compression?: "zlib" | "zstd";
  /**
   * Stores whole clusters, from `offset` on, whose data was compressed elsewhere: shorter than a cluster each, in the
   * image's kind of compression. Those before one that fails may have been stored.
   */
  writePacked?(offset: number, clusters: readonly Uint8Array[]): Co<void>;
  /**
   * Writes one whole cluster, or what there is of the disk's last one, compressed; plainly when it does not get smaller.
   * @throws {BlockError} ENOTSUP when the host cannot compress in the image's way.
   */
  writeCompressed?(offset: number, vector: IoVector): Co<void>;
  /** Gives back space that an earlier crash has leaked; nothing else is in flight. Returns the number of clusters. */
  reclaimLeaks?(): Co<number>;
  /** Gives up all content, so that the backing file shows through everywhere; nothing else is in flight. */
  makeEmpty?(): Co<void>;
  /**
   * Changes what the image was created with; nothing else is in flight. Each step is durable before the next.
   * @param options the format's own, with qemu-img's keys and texts
   * @param tell hears how much is done, 0 to 1
   * @param force also what may lose data: keys that are the last ones, or are overwritten
   * @throws {BlockError} EINVAL or ENOTSUP for what cannot be; earlier steps stay.
   */
  amend?(options: Readonly<Record<string, string>>, tell: (done: number) => void, force: boolean): Co<void>;
  /** Records another backing file in the image, durable when it ends; null for none. */
  changeBackingFile?(backing: BackingFile | null): Co<void>;
  /** What the image says of its backing file. */
  readonly backingFile?: BackingFile | null;
  /** States of the disk that the image keeps inside of itself. */
  readonly snapshots?: InternalSnapshots;
  /** The node's dirty bitmaps, for drivers whose images keep some: stored when the driver is closed. */
  readonly bitmaps?: DirtyBitmaps;
  /** Where the state of a machine stands that snapshots of it keep: behind the disk. */
  machineStateOffset?(): number;
  /** Reads from byte `offset` of that state on; what was never written is zeros. */
  readMachineState?(offset: number, vector: IoVector): Co<void>;
  /** Writes to it; nothing else is in flight. */
  writeMachineState?(offset: number, vector: IoVector): Co<void>;
  /** Facts for `info`, with qemu-img's JSON keys. */
  information?(): ImageInformation;
  /**
   * Options with which another thread of this process opens the same storage again, read-only; structured-cloneable.
   * Without this method, or where it gives nothing, the driver's data can only be reached from this thread.
   */
  shareableOptions?(): Readonly<Record<string, unknown>> | undefined;
  /** For files of the host: the process-wide descriptor at which `Extent.hostOffset` counts. */
  readonly fileDescriptor?: number | undefined;
  /** For files of the host: the name that tells this file from every other, so that a chain's cycles are seen. */
  readonly identity?: string | undefined;
}

/** A backing file as an image names it. */
export interface BackingFile {
  readonly filename: string;
  /** The format's QMP name, or null when the image does not say. */
  readonly format: string | null;
}

/** The optional keys of `qemu-img info --output=json` that a driver knows. */
export interface ImageInformation {
  readonly "cluster-size"?: number;
  readonly "dirty-flag"?: boolean;
  readonly "actual-size"?: number;
  readonly compressed?: boolean;
  readonly encrypted?: boolean;
  readonly snapshots?: readonly Readonly<Record<string, string | number>>[];
  readonly "format-specific"?: { readonly type: string; readonly data: Readonly<Record<string, unknown>> };
}
