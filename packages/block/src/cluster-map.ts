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
   * For `data`, and for zeros that keep their space: where the byte at the offset asked for stands; the run is contiguous.
   */
  readonly hostOffset?: number;
  /** For `data`: it may be overwritten in place (no snapshot shares it). */
  readonly writable?: boolean;
}

/** Host clusters reserved for whole guest clusters. Nothing points at them until they are published. */
export interface Allocation {
  /** A multiple of the cluster size. */
  readonly guestOffset: number;
  /** A multiple of the cluster size. */
  readonly length: number;
  readonly hostOffset: number;
}

export interface ClusterMap {
  readonly clusterSize: number;
  /** The run that begins at `offset` (any byte), at most `length` long. */
  lookup(offset: number, length: number): Co<Mapping>;
  /**
   * Reserves contiguous host clusters for the guest clusters from `guestOffset` on (cluster-aligned): as many of
   * `length` as can be had in one piece, at least one cluster.
   * @throws {BlockError} ENOSPC or EFBIG when there is no more room; nothing is reserved then.
   */
  allocate(guestOffset: number, length: number): Co<Allocation>;
  /**
   * Makes the guest clusters point at the reserved ones, whose data has been written. What they pointed at before is
   * freed, and is not reused before every request in flight now has ended. The caller holds the clusters exclusively.
   */
  publish(allocation: Allocation): Co<void>;
  /** Gives a reservation back that was not published. */
  release(allocation: Allocation): Co<void>;
  /** Makes whole clusters read as zeros without storing them; `mayUnmap` gives their space back. */
  zero(guestOffset: number, length: number, mayUnmap: boolean): Co<void>;
  /** Gives the space of whole clusters back; they read as zeros afterwards, also above a backing file, or as before. */
  discard(guestOffset: number, length: number): Co<void>;
  /** Reads part of the one compressed cluster at `offset`; the vector does not cross the cluster's end. */
  readCompressed(offset: number, vector: IoVector): Co<void>;
  /** Writes metadata in crash-safe order, and makes it and all data written before durable. */
  flush(): Co<void>;
}
