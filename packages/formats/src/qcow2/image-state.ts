/** What the parts of an open qcow2 image share: the header as it is now, the tables in memory, and who waits for what. */
import { type Co, CoMutex } from "@spindle/base";
import type { BlockNode, Children, Environment, InFlightTickets } from "@spindle/block";
import type { ClusterPlace } from "../cluster-image.ts";
import { zeros } from "../luks/encrypted-data.ts";
import type { Allocator, ClusterRun } from "./allocate.ts";
import type { Encryption } from "./encryption.ts";
import { EntryLayout } from "./entry-layout.ts";
import { hasDataFile, isDataFileRaw, type Qcow2Header } from "./header.ts";
import type { MetadataClusters } from "./metadata-clusters.ts";
import type { Qcow2OpenOptions } from "./open-options.ts";
import type { Refcounts } from "./refcount.ts";
import type { SnapshotMetadata } from "./snapshot-metadata.ts";
import { TableCache } from "./table-cache.ts";

/** Memory for L2 tables that are not changed, for an image that is written: 128 GiB of disk at the default cluster size. */
const L2_CACHE_BYTES = 16 * 1024 * 1024;

/** The same for images that are only read, 8 GiB of disk: backing files, which each copy worker opens for itself. */
const READ_ONLY_CACHE_BYTES = 1 * 1024 * 1024;

/** A run that nothing in memory points at any more. */
export interface FreedRun extends ClusterRun {
  /** The newest request when it was freed: until all up to it have ended, one of them may still use the run. */
  readonly ticket: number;
}

export class ImageState {
  header: Qcow2Header;
  readonly clusterSize: number;
  /** How the entries of L2 tables are read and written; another one for another version. */
  entries: EntryLayout;
  readonly entriesPerTable: number;
  readonly children: Children;
  readonly environment: Environment;
  readonly inFlight: InFlightTickets;
  /** Null when data stands in the file as it is. */
  readonly encryption: Encryption | null;
  readonly refcounts: Refcounts;
  readonly allocator: Allocator;
  /** Empty while the image is open read-only. */
  readonly metadata: MetadataClusters;
  /** Where snapshots have their tables; nothing is known of them while the image is open read-only. */
  snapshots: SnapshotMetadata;
  /** Damage was met: nothing is written any more. */
  isDamaged = false;
  /** The active L1 table, big-endian as in the file. */
  l1: DataView;
  /** Indices of 512-byte sectors of the L1 table that differ from the file. */
  readonly dirtyL1: Set<number> = new Set();
  readonly l2: TableCache;
  /** Whether refcounts may be behind; what the header says when undefined. */
  readonly lazyRefcounts: boolean | undefined;
  /** Freed since the last write-back began: the file may still point at them. */
  freed: FreedRun[] = [];
  /** The file does not point at them any more; requests in flight may still use them. */
  quarantined: FreedRun[] = [];
  /** Serialises changes of which L2 tables there are. */
  readonly tableMutex: CoMutex = new CoMutex();
  readonly writeBackMutex: CoMutex = new CoMutex();

  constructor(
    parts: Pick<
      ImageState,
      | "header"
      | "children"
      | "environment"
      | "encryption"
      | "inFlight"
      | "refcounts"
      | "allocator"
      | "metadata"
      | "snapshots"
      | "l1"
    > & { readonly options: Qcow2OpenOptions },
  ) {
    this.header = parts.header;
    this.clusterSize = 2 ** parts.header.clusterBits;
    this.entries = new EntryLayout(parts.header);
    this.entriesPerTable = this.entries.entriesPerTable;
    this.children = parts.children;
    this.environment = parts.environment;
    this.inFlight = parts.inFlight;
    this.encryption = parts.encryption;
    this.refcounts = parts.refcounts;
    this.allocator = parts.allocator;
    this.metadata = parts.metadata;
    this.snapshots = parts.snapshots;
    this.l1 = parts.l1;
    const { lazyRefcounts, l2CacheBytes } = parts.options;
    this.lazyRefcounts = lazyRefcounts;
    const cacheBytes = l2CacheBytes ?? (this.file.readOnly ? READ_ONLY_CACHE_BYTES : L2_CACHE_BYTES);
    this.l2 = new TableCache(Math.max(4, cacheBytes / this.clusterSize));
  }

  get file(): BlockNode {
    return this.children.file as BlockNode;
  }

  /** Stores zeros of the disk in clusters of the file. */
  writeZeros(place: ClusterPlace, length: number): Co<void> {
    if (this.encryption === null) return this.dataFile.writeZeroes(place.hostOffset, length, {});
    return this.encryption.write(this.dataFile, place, zeros(length));
  }

  /** The file in which the data stands. */
  get dataFile(): BlockNode {
    return this.children.data ?? this.file;
  }

  /** Data clusters stand in a file of their own, where nothing is allocated and counted. */
  get hasDataFile(): boolean {
    return hasDataFile(this.header);
  }

  /** The image was opened without the file in which its data stands: it can be looked at, and not read. */
  get lacksDataFile(): boolean {
    return this.hasDataFile && this.children.data === undefined;
  }

  /** The data file has to show zeros where the disk does. */
  get isDataFileRaw(): boolean {
    return this.hasDataFile && isDataFileRaw(this.header);
  }

  /** Makes everything durable that was written: data before metadata. */
  *flushFiles(): Co<void> {
    if (this.hasDataFile) yield* this.dataFile.flush();
    yield* this.file.flush();
  }

  /** Notes that nothing in memory points at a run any more. */
  free(index: number, count: number): void {
    this.freed.push({ index, count, ticket: this.inFlight.ticket() });
  }
}
