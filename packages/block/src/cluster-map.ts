/**
 * The one thing that a cluster format has to know: which guest cluster stands where in the image file. Reading,
 * writing, copy-on-write of part clusters and streaming are written once over it (`formats/cluster-image`), and data
 * movers on other threads place bytes with it.
 *
 * Only the owner thread of the graph calls a map. All offsets and lengths are bytes.
 */
import type { Co } from "@spindle/base";
import type { IoVector } from "./io-vector.ts";

export type MappingKind =
  /** Plain bytes at `hostOffset`. */
  | "data"
  /** Reads as zeros. */
  | "zero"
  /** Compressed data: read it with `readCompressed`, one cluster at a time. */
  | "compressed"
  /** Not in this layer. */
  | "unallocated";

/** A run of guest clusters of one kind. */
export interface Mapping {
  readonly kind: MappingKind;
  /** Bytes from the offset asked for; at least 1. */
  readonly length: number;
  /**
   * For `data`, and for what has space without standing in it: where the byte at the offset asked for stands, or would;
   * the run is contiguous.
   */
  readonly hostOffset?: number;
  /** For `data`: it may be overwritten in place (no snapshot shares it). */
  readonly writable?: boolean;
}

/** Host space for a range of the disk. What is read there does not change before it is published. */
export interface Allocation {
  /** A multiple of the subcluster size. */
  readonly guestOffset: number;
  /** A multiple of the subcluster size. */
  readonly length: number;
  readonly hostOffset: number;
  /** The host clusters were reserved for it, and nothing points at them; otherwise the guest clusters have them already. */
  readonly reserved: boolean;
}

export interface ClusterMap {
  /** The unit in which host space is given to the disk. */
  readonly clusterSize: number;
  /** Parts of a cluster of this size are of a kind each; the cluster size where a cluster is of one kind. */
  readonly subclusterSize: number;
  /** The run that begins at `offset` (any byte), at most `length` long. */
  lookup(offset: number, length: number): Co<Mapping>;
  /**
   * Finds contiguous host space for a write that begins at `guestOffset`: room in clusters that the guest clusters have
   * for themselves, or reserved clusters; as much of `length` as can be had in one piece. The allocation consists of
   * whole subclusters and may begin before the write and end behind it: whatever a cluster held has to move with it. The
   * caller writes all of the allocation before it is published, and asks for nothing that may be overwritten in place.
   * @param gaps whether free space that is too small for all of it is used: for who gives much of it back, as a stream does
   *   with zeros, and would leave a file full of gaps. Without it the format decides.
   * @param behind where in the file the part of the same request ends that comes before: what is free from there on is
   *   taken, however little it is, so that the request stays in one piece
   * @throws {BlockError} ENOSPC or EFBIG when there is no more room; nothing is reserved then.
   */
  allocate(guestOffset: number, length: number, gaps?: boolean, behind?: number): Co<Allocation>;
  /**
   * Lets the range stand where its data has been written. What the guest clusters pointed at before is freed, and is not
   * reused before every request in flight now has ended. The caller holds the clusters exclusively.
   */
  publish(allocation: Allocation): Co<void>;
  /** Gives an allocation back that was not published. */
  release(allocation: Allocation): Co<void>;
  /**
   * Makes whole clusters, or whole subclusters of one cluster, read as zeros without storing them; `mayUnmap` gives the
   * space of whole clusters back.
   * @returns false when the format cannot say so there: then nothing has changed, and zeros have to be written.
   */
  zero(guestOffset: number, length: number, mayUnmap: boolean): Co<boolean>;
  /** Gives the space of whole clusters back; they read as zeros afterwards, also above a backing file, or as before. */
  discard(guestOffset: number, length: number): Co<void>;
  /** Whether much of what has a place in the file has no space of the host there: the file knows more of what is zeros then. */
  hasFileHoles?(): Co<boolean>;
  /** Reads part of the one compressed cluster at `offset`; the vector does not cross the cluster's end. */
  readCompressed(offset: number, vector: IoVector): Co<void>;
  /** Writes metadata in crash-safe order, and makes it and all data written before durable. */
  flush(): Co<void>;
}
