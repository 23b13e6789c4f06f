/**
 * Persistent bitmaps: dirty bitmaps that the image keeps while nobody has it open. Opening for writing marks them "in use"
 * in the file, before anything is written that they would miss; closing stores them anew, in this order:
 *
 *   1. clusters of bits, tables and the directory, where nothing was, and a barrier with their counts
 *   2. the header points at the new directory
 *   3. the clusters of the old one are given up
 *
 * A crash before step 2 leaves bitmaps in use, which are not relied on any more; behind it, leaked clusters at worst.
 */
import { BlockError, type Co, encodeUtf8 } from "@spindle/base";
import {
  type BitmapStorage,
  DirtyBitmap,
  DirtyBitmaps,
  type Environment,
  IoVector,
  type StoredBits,
} from "@spindle/block";
import type { ClusterRun } from "./allocate.ts";
import {
  ALL_ONES,
  ALL_ZEROS,
  type BitmapDirectoryPlace,
  type BitmapEntry,
  bitmapDirectoryBytes,
  bitmapDirectoryPlace,
  bitmapTableBytes,
  bitmapTableEntries,
  FLAG_AUTO,
  FLAG_IN_USE,
  readBitmapDirectory,
  readBitmapTable,
} from "./bitmap-directory.ts";
import { writeBitmapExtension } from "./bitmap-extension.ts";
import { checkStorable } from "./bitmap-limits.ts";
import { QCOW2_AUTOCLEAR_BITMAPS, type Qcow2Header } from "./header.ts";
import type { ImageState } from "./image-state.ts";
import { readPadded } from "./padded-read.ts";
import { corrupt } from "./refcount.ts";
import type { WriteBack } from "./write-back.ts";

/** Entries of all tables together that are looked at: 256 GiB of bits at the default cluster size. */
const ENTRIES_MAX: number = 2 ** 22;

/** A bitmap as it stands in the file. */
interface StoredBitmap {
  readonly entry: BitmapEntry;
  /** Empty for one in use, which nobody reads. */
  readonly table: Float64Array;
}

type StoredBitmaps = ReadonlyMap<DirtyBitmap, StoredBitmap>;
type Make = (made: ClusterRun[]) => Co<StoredBitmaps>;

export class PersistentBitmaps implements BitmapStorage {
  /** Those of the node: which are persistent is theirs to say. */
  readonly bitmaps: DirtyBitmaps;
  readonly #state: ImageState;
  readonly #writeBack: WriteBack;
  readonly #nodeName: string;
  #stored: StoredBitmaps;

  private constructor(state: ImageState, writeBack: WriteBack, nodeName: string, stored: StoredBitmaps) {
    this.#state = state;
    this.#writeBack = writeBack;
    this.#nodeName = nodeName;
    this.#stored = stored;
    const { clusterSize } = state;
    const node = { name: nodeName, clusterSize, length: () => state.header.size };
    this.bitmaps = new DirtyBitmaps(node, this, [...stored.keys()]);
  }

  /** Reads the directory and the tables. @throws {BlockError} EINVAL when they cannot be true, EFBIG for too much of them. */
  static *open(state: ImageState, writeBack: WriteBack, nodeName: string): Co<PersistentBitmaps> {
    const { header, file, clusterSize } = state;
    warnOfStaleBitmaps(header, state.environment);
    const stored = new Map<DirtyBitmap, StoredBitmap>();
    const place = placeIn(header);
    if (place === null) return new PersistentBitmaps(state, writeBack, nodeName, stored);
    let left = ENTRIES_MAX;
    const names = new Set<string>();
    for (const entry of yield* readBitmapDirectory(file, place, clusterSize, header.size)) {
      left -= entry.entries;
      if (left < 0) throw new BlockError("EFBIG", "the image's bitmap tables are too long");
      if (names.has(entry.name)) throw new BlockError("EINVAL", `Bitmap already exists: ${entry.name}`);
      names.add(entry.name);
      const inconsistent = (entry.flags & FLAG_IN_USE) !== 0;
      const table = inconsistent ? new Float64Array(0) : yield* openTable(state, entry);
      const bitmap = new DirtyBitmap({
        name: entry.name,
        granularity: 2 ** entry.granularityBits,
        enabled: !inconsistent && (entry.flags & FLAG_AUTO) !== 0,
        persistent: true,
        inconsistent,
        stored: storedBits(state, table, Math.ceil(header.size / 2 ** entry.granularityBits)),
      });
      stored.set(bitmap, { entry, table });
    }
    return new PersistentBitmaps(state, writeBack, nodeName, stored);
  }

  /** What `info` lists, with QEMU's keys; undefined when there are none. */
  information(): readonly Readonly<Record<string, unknown>>[] | undefined {
    const listed = [...this.#stored.values()].map(({ entry }) => ({
      flags: [
        ...((entry.flags & FLAG_IN_USE) === 0 ? [] : ["in-use"]),
        ...((entry.flags & FLAG_AUTO) === 0 ? [] : ["auto"]),
      ],
      name: entry.name,
      granularity: 2 ** entry.granularityBits,
    }));
    return listed.length === 0 ? undefined : listed;
  }

  /** From now on the file says that they may have missed something. @throws {BlockError} EIO for a directory among tables. */
  *markInUse(): Co<void> {
    const { file, metadata, header } = this.#state;
    const place = placeIn(header);
    if (place === null) return;
    const { index, count } = this.#runOf(place.offset, place.length);
    if (metadata.touches(index, count)) throw corrupt("the directory of bitmaps stands where another table does");
    this.#protect(place);
    const entries = [...this.#stored.values()].map(({ entry }) => entry);
    if (entries.every(({ flags }) => (flags & FLAG_IN_USE) !== 0)) return;
    const marked = entries.map((entry) => ({ ...entry, flags: entry.flags | FLAG_IN_USE }));
    yield* file.write(place.offset, IoVector.of(bitmapDirectoryBytes(marked)));
    yield* file.flush();
  }

  get storesBitmaps(): boolean {
    return this.#state.header.version >= 3;
  }

  checkStorable(bitmap: Pick<DirtyBitmap, "name" | "granularity">, others: readonly DirtyBitmap[]): void {
    checkStorable(this.#state.header, this.#nodeName, bitmap, others);
  }

  /** Takes one out of the file; the others stay in use. */
  *forget(bitmap: DirtyBitmap): Co<void> {
    const stored = this.#stored.get(bitmap);
    if (stored === undefined) return;
    const next = new Map([...this.#stored].filter(([other]) => other !== bitmap));
    yield* this.#replace(this.#clustersOf(stored), FLAG_IN_USE, function* () {
      return next;
    });
  }

  /** Stores them for the next opening. Nothing is in flight, and everything else is written. */
  *store(): Co<void> {
    const kept = this.#inFileOrder();
    if (kept.every(({ inconsistent }) => inconsistent)) return;
    const replaced = [...this.#stored].filter(([bitmap]) => !bitmap.inconsistent);
    const old = replaced.flatMap(([, stored]) => this.#clustersOf(stored));
    const storeOne = (bitmap: DirtyBitmap, made: ClusterRun[]): Co<StoredBitmap> => this.#storeOne(bitmap, made);
    yield* this.#replace(old, 0, function* (made) {
      const next = new Map<DirtyBitmap, StoredBitmap>();
      for (const bitmap of kept) next.set(bitmap, yield* storeOne(bitmap, made));
      return next;
    });
  }

  /**
   * Lets the file have other bitmaps.
   * @param old clusters that are given up then
   * @param flags what all entries say
   * @param make writes what is new in clusters that it adds to `made`
   */
  *#replace(old: readonly ClusterRun[], flags: number, make: Make): Co<void> {
    const state = this.#state;
    const before = placeIn(state.header);
    const { next, place } = yield* this.#prepare(flags, make);
    // From here on the header may point at what is new: nothing of that is taken back.
    state.header = yield* writeBitmapExtension(state.file, state.header, place);
    this.#stored = next;
    const unused = before === null ? old : [...old, this.#unprotect(before)];
    this.#protect(placeIn(state.header));
    // What something else uses as well, as in no sound image, is left alone.
    for (const run of unused) if (!state.metadata.touches(run.index, run.count)) yield* state.allocator.decrement(run);
    yield* this.#writeBack.settle();
  }

  /** Writes what the header is to point at; when that fails, everything is as before. */
  *#prepare(flags: number, make: Make): Co<{ next: StoredBitmaps; place: BitmapDirectoryPlace | null }> {
    const made: ClusterRun[] = [];
    try {
      const next = yield* make(made);
      const entries = [...next.values()].map(({ entry }) => ({ ...entry, flags: entry.flags | flags }));
      const place = yield* this.#storeDirectory(entries, made);
      yield* this.#writeBack.settle();
      return { next, place };
    } catch (error) {
      for (const run of made) yield* this.#state.allocator.decrement(run);
      throw error;
    }
  }

  /** As they are in the file, and behind them the new ones, the newest first, as in QEMU. */
  #inFileOrder(): DirtyBitmap[] {
    const all = this.bitmaps.list().filter(({ persistent }) => persistent);
    const isOld = (bitmap: DirtyBitmap): boolean => this.#stored.has(bitmap);
    return [...all.filter(isOld), ...all.filter((bitmap) => !isOld(bitmap)).reverse()];
  }

  *#storeOne(bitmap: DirtyBitmap, made: ClusterRun[]): Co<StoredBitmap> {
    const there = this.#stored.get(bitmap);
    if (bitmap.inconsistent && there !== undefined) return there;
    const { clusterSize, header, file } = this.#state;
    const bits = yield* bitmap.bits();
    const table = new Float64Array(bitmapTableEntries(header.size, bitmap.granularity, clusterSize));
    const bytes = new Uint8Array(clusterSize);
    for (let index = 0; index < table.length; index++) {
      if (!bits.readBytes(index * clusterSize, bytes)) continue;
      const place = yield* this.#allocate(clusterSize, made);
      table[index] = place;
      yield* file.write(place, IoVector.of(bytes.slice()));
    }
    const offset = yield* this.#allocate(table.length * 8, made);
    yield* file.write(offset, IoVector.of(bitmapTableBytes(table)));
    const entry = {
      name: bitmap.name,
      nameBytes: there?.entry.nameBytes ?? encodeUtf8(bitmap.name),
      offset,
      entries: table.length,
      flags: bitmap.enabled ? FLAG_AUTO : 0,
      granularityBits: Math.log2(bitmap.granularity),
    };
    return { entry, table };
  }

  /** @returns null when there is nothing to list */
  *#storeDirectory(entries: readonly BitmapEntry[], made: ClusterRun[]): Co<BitmapDirectoryPlace | null> {
    if (entries.length === 0) return null;
    const bytes = bitmapDirectoryBytes(entries);
    const offset = yield* this.#allocate(bytes.length, made);
    yield* this.#state.file.write(offset, IoVector.of(bytes));
    return { count: entries.length, offset, length: bytes.length };
  }

  /** @returns the offset of clusters for so many bytes */
  *#allocate(length: number, made: ClusterRun[]): Co<number> {
    const { allocator, clusterSize } = this.#state;
    const run = yield* allocator.allocate(Math.ceil(length / clusterSize));
    made.push(run);
    return run.index * clusterSize;
  }

  #clustersOf({ entry, table }: StoredBitmap): ClusterRun[] {
    const places = table.filter((place) => place > ALL_ONES);
    return [...Array.from(places, (place) => this.#runOf(place, 1)), this.#runOf(entry.offset, entry.entries * 8)];
  }

  #runOf(offset: number, length: number): ClusterRun {
    const { clusterSize } = this.#state;
    return { index: offset / clusterSize, count: Math.ceil(length / clusterSize) };
  }

  /** Nothing else is written where the directory stands. */
  #protect(place: BitmapDirectoryPlace | null): void {
    if (place === null) return;
    const { index, count } = this.#runOf(place.offset, place.length);
    for (let at = index; at < index + count; at++) this.#state.metadata.add(at);
  }

  #unprotect(place: BitmapDirectoryPlace): ClusterRun {
    const run = this.#runOf(place.offset, place.length);
    for (let at = run.index; at < run.index + run.count; at++) this.#state.metadata.delete(at);
    return run;
  }
}

/** Another program, which does not know of bitmaps, has written the image. */
export function warnOfStaleBitmaps(header: Qcow2Header, { warn }: Environment): void {
  if (header.bitmapExtension === null || placeIn(header) !== null) return;
  warn?.(
    header.version < 3
      ? "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent bitmap " +
          "support; so now they must all be considered inconsistent"
      : "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent",
    "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.",
  );
}

/** Where the directory stands, while the header says that it holds. */
export function placeIn({
  bitmapExtension,
  autoclear,
  version,
  clusterBits,
}: Qcow2Header): BitmapDirectoryPlace | null {
  const holds = version >= 3 && (autoclear & QCOW2_AUTOCLEAR_BITMAPS) !== 0n;
  return bitmapExtension === null || !holds ? null : bitmapDirectoryPlace(bitmapExtension, 2 ** clusterBits);
}

function* openTable({ header, file, clusterSize }: ImageState, entry: BitmapEntry): Co<Float64Array> {
  const table = yield* readBitmapTable(file, entry, clusterSize);
  if (table.length !== bitmapTableEntries(header.size, 2 ** entry.granularityBits, clusterSize))
    throw new BlockError("EINVAL", `Could not read bitmap '${entry.name}' from image: Invalid argument`);
  return table;
}

/** The bits to which a table leads. @param count bits of the disk; what the clusters hold behind them means nothing */
function storedBits({ file, clusterSize }: ImageState, table: Float64Array, count: number): StoredBits {
  return {
    *readInto(bits) {
      const bytes = new Uint8Array(clusterSize);
      for (const [index, place] of table.entries()) {
        if (place === ALL_ZEROS) continue;
        if (place === ALL_ONES) bits.set(index * clusterSize * 8, (index + 1) * clusterSize * 8);
        else {
          yield* readPadded(file, place, bytes);
          bits.addBytes(index * clusterSize, bytes);
        }
      }
      bits.truncate(count);
    },
  };
}
