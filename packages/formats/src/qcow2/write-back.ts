/**
 * Brings changed metadata to the file so that a crash at any point leaves leaked clusters at worst:
 *
 *   1. new refcount blocks, a barrier, and the table entries that name them; the header's pointer to a table that was
 *      moved comes first where it could not be written then
 *   2. changed refcount blocks, and new L2 tables, which nothing points at yet
 *   3. a barrier, which also makes all data written before durable
 *   4. changed L2 tables and L1 entries, as they were when step 2 began
 *   5. a barrier
 *   6. only now are clusters that were given up before step 2 counted down, once the requests of then have ended
 *
 * Clusters are counted up when they are reserved, so the counts of step 2 cover whatever step 4 writes.
 *
 * With lazy refcounts, steps 1 and 2 leave refcounts out. The image is marked dirty before the first step 4, and the mark
 * taken away when it is closed with counts that are right; whoever opens a dirty image makes the counts anew first.
 */
import { ByteView, type Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { QCOW2_COMPAT_LAZY_REFCOUNTS, QCOW2_INCOMPAT_DIRTY } from "./header.ts";
import type { FreedRun, ImageState } from "./image-state.ts";
import type { CachedTable } from "./table-cache.ts";

/** What one write-back brings to the file, copied at one moment. */
interface Snapshot {
  readonly tables: readonly { readonly table: CachedTable; readonly bytes: Uint8Array; readonly fresh: boolean }[];
  readonly l1Sectors: readonly { readonly index: number; readonly bytes: Uint8Array }[];
  readonly freed: readonly FreedRun[];
}

const L1_SECTOR_BYTES = 512;
/** Refcount blocks that lazy counts keep in memory: more are written, though the image may stay dirty. */
const LAZY_BYTES_MAX: number = 16 * 1024 * 1024;
const HEADER_INCOMPATIBLE = 72;

export class WriteBack {
  readonly #state: ImageState;

  constructor(state: ImageState) {
    this.#state = state;
  }

  /** Writes metadata and makes it, and all data written before, durable. Lazy refcounts are left behind. */
  *flush(): Co<void> {
    const flushed = yield* this.writeBack();
    if (!flushed) yield* this.#state.flushFiles();
  }

  /** The same, with refcounts that are lazy otherwise. */
  *settle(): Co<void> {
    const flushed = yield* this.writeBack(true);
    if (!flushed) yield* this.#state.flushFiles();
  }

  /** After the last {@link settle}: the image was closed in order. */
  *markClean(): Co<void> {
    const { incompatible } = this.#state.header;
    if ((incompatible & QCOW2_INCOMPAT_DIRTY) !== 0n) yield* this.#writeFeatures(incompatible & ~QCOW2_INCOMPAT_DIRTY);
  }

  /**
   * Writes metadata.
   * @param accurate with refcounts, also where they are lazy
   * @returns whether a barrier came after everything that was written before the call
   */
  *writeBack(accurate = false): Co<boolean> {
    yield* this.#state.writeBackMutex.lock();
    try {
      yield* this.reclaim();
      const isLazy = !accurate && this.#mayBeLazy;
      if (isLazy) yield* this.#markDirty();
      else yield* this.#nameBlocks();
      return yield* this.#writeSnapshot(this.#takeSnapshot(), isLazy);
    } finally {
      this.#state.writeBackMutex.unlock();
    }
  }

  /** The image wants it, and what waits in memory is not too much. */
  get #mayBeLazy(): boolean {
    const { header, refcounts, clusterSize, lazyRefcounts } = this.#state;
    const isLazyImage = header.version >= 3 && (header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) !== 0n;
    const wants = lazyRefcounts ?? isLazyImage;
    return wants && refcounts.blocks.dirtyCount * clusterSize <= LAZY_BYTES_MAX;
  }

  /** From now on the counts in the file are behind, and must be made anew after a crash. */
  *#markDirty(): Co<void> {
    const { header, refcounts } = this.#state;
    const isBehind = refcounts.blocks.dirtyCount + refcounts.unlisted.size + refcounts.replaced.length > 0;
    if (!isBehind || (header.incompatible & QCOW2_INCOMPAT_DIRTY) !== 0n) return;
    yield* this.#writeFeatures(header.incompatible | QCOW2_INCOMPAT_DIRTY);
  }

  *#writeFeatures(incompatible: bigint): Co<void> {
    const { file } = this.#state;
    const bits = new ByteView(new Uint8Array(8));
    bits.setBigU64be(0, incompatible);
    yield* file.write(HEADER_INCOMPATIBLE, IoVector.of(bits.bytes));
    yield* file.flush();
    this.#state.header = { ...this.#state.header, incompatible };
  }

  /** Whether there are clusters that a request in flight may have been the last to use. */
  get hasReclaimable(): boolean {
    return this.#state.quarantined.length > 0;
  }

  /** Counts down all clusters that were given up: the caller has the disk for itself, and everything is written. */
  *reclaimAll(): Co<void> {
    const state = this.#state;
    for (let run = state.quarantined.pop(); run !== undefined; run = state.quarantined.pop())
      yield* state.allocator.decrement(run);
  }

  /** Counts down the clusters that nobody can use any more. */
  *reclaim(): Co<void> {
    const state = this.#state;
    if (state.quarantined.length === 0) return;
    const oldest = state.inFlight.oldestTicket();
    const over = state.quarantined.filter((run) => run.ticket < oldest);
    if (over.length === 0) return;
    state.quarantined = state.quarantined.filter((run) => run.ticket >= oldest);
    for (let run = over.pop(); run !== undefined; run = over.pop()) {
      try {
        yield* state.allocator.decrement(run);
      } catch (error) {
        // This run is leaked: how much of it was counted down is not known. The others are for later.
        state.quarantined.push(...over);
        throw error;
      }
    }
  }

  /** Step 1. Blocks may be added meanwhile; when it ends there is none that the table in the file does not name. */
  *#nameBlocks(): Co<void> {
    const { refcounts, allocator } = this.#state;
    while (refcounts.replaced.length > 0 || refcounts.unlisted.size > 0) {
      if (refcounts.replaced.length > 0) yield* allocator.switchTable();
      else yield* this.#listBlocks();
    }
  }

  *#listBlocks(): Co<void> {
    const { refcounts, file, allocator } = this.#state;
    const blocks = [...refcounts.unlisted];
    yield* file.tell("refblock_alloc_write");
    for (const block of blocks) yield* file.write(block.hostOffset, IoVector.of(block.bytes.slice()));
    yield* file.flush();
    for (const block of blocks) yield* allocator.listBlock(block);
  }

  #takeSnapshot(): Snapshot {
    const state = this.#state;
    const tables = state.l2.dirtyTables().map((table) => {
      state.l2.markClean(table);
      table.writing = true;
      return { table, bytes: table.bytes.slice(), fresh: table.fresh };
    });
    const l1Sectors = [...state.dirtyL1].map((index) => ({ index, bytes: this.#l1Sector(index).slice() }));
    state.dirtyL1.clear();
    const { freed } = state;
    state.freed = [];
    return { tables, l1Sectors, freed };
  }

  *#writeSnapshot(snapshot: Snapshot, isLazy: boolean): Co<boolean> {
    const { file } = this.#state;
    const { tables, l1Sectors, freed } = snapshot;
    try {
      if (!isLazy) yield* this.#writeRefcounts();
      for (const { table, bytes, fresh } of tables) {
        if (!fresh) continue;
        yield* file.tell("l2_alloc_write");
        yield* file.tell("l2_update");
        yield* file.write(table.hostOffset, IoVector.of(bytes));
        table.fresh = false;
      }
      const publishes = tables.some(({ fresh }) => !fresh) || l1Sectors.length > 0;
      if (!publishes) {
        this.#state.quarantined.push(...freed);
        return false;
      }
      yield* this.#state.flushFiles();
      for (const { table, bytes, fresh } of tables) {
        if (fresh) continue;
        yield* file.tell("l2_update");
        yield* file.write(table.hostOffset, IoVector.of(bytes));
      }
      for (const { index, bytes } of l1Sectors) {
        yield* file.tell("l1_update");
        yield* file.write(this.#l1SectorOffset(index), IoVector.of(bytes));
      }
      yield* file.flush();
    } catch (error) {
      this.#putBack(snapshot);
      throw error;
    } finally {
      for (const { table } of tables) table.writing = false;
    }
    this.#state.quarantined.push(...freed);
    return true;
  }

  *#writeRefcounts(): Co<void> {
    const { refcounts, file } = this.#state;
    for (const block of refcounts.blocks.dirtyTables()) {
      refcounts.blocks.markClean(block);
      block.writing = true;
      try {
        yield* file.tell("refblock_update_part");
        yield* file.write(block.hostOffset, IoVector.of(block.bytes.slice()));
      } catch (error) {
        refcounts.blocks.markDirty(block);
        throw error;
      } finally {
        block.writing = false;
      }
    }
  }

  /** What could not be written stays to be written; a table that reached the file is written once more. */
  #putBack({ tables, l1Sectors, freed }: Snapshot): void {
    const state = this.#state;
    for (const { table, fresh } of tables) {
      table.fresh = fresh;
      if (state.l2.get(table.index) === table) state.l2.markDirty(table);
    }
    for (const { index } of l1Sectors) state.dirtyL1.add(index);
    state.freed = [...freed, ...state.freed];
  }

  #l1Sector(index: number): Uint8Array {
    const { l1 } = this.#state;
    const start = index * L1_SECTOR_BYTES;
    const length = Math.min(L1_SECTOR_BYTES, l1.byteLength - start);
    return new Uint8Array(l1.buffer, l1.byteOffset + start, length);
  }

  #l1SectorOffset(index: number): number {
    return this.#state.header.l1Offset + index * L1_SECTOR_BYTES;
  }
}
