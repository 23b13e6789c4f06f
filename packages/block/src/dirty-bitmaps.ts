/**
 * The dirty bitmaps of one node, by name, and what people do with them, in QEMU's words. All but marking happens while
 * nothing else is in flight on the node (`changeBitmaps`): a request is marked in full or not at all, and data movers
 * on other threads have been told to forget which clusters they may overwrite unseen.
 */
import { BlockError, type Co, isPowerOfTwo } from "@spindle/base";
import { DirtyBitmap } from "./dirty-bitmap.ts";

const GRANULARITY_MIN = 512;
const GRANULARITY_MAX: number = 2 ** 31;
/** Where no cluster size gives a default. */
const GRANULARITY_DEFAULT = 65_536;
const GRANULARITY_DEFAULT_MIN = 4096;
const HINT = "Try block-dirty-bitmap-remove to delete this bitmap from disk";

/** The bitmaps of an image, as far as others ask for them. */
export interface BitmapStorage {
  /** The image is of a kind that keeps bitmaps. */
  readonly storesBitmaps: boolean;
  /** @throws {BlockError} when the image has no room for one more of this kind. */
  checkStorable(bitmap: Pick<DirtyBitmap, "name" | "granularity">, others: readonly DirtyBitmap[]): void;
  /** Takes a persistent bitmap out of the image, durable when it ends. */
  forget(bitmap: DirtyBitmap): Co<void>;
}

export interface NewBitmap {
  readonly name: string;
  /** Bytes; what the clusters suggest when absent. */
  readonly granularity?: number | undefined;
  /** Default true. */
  readonly enabled?: boolean;
  /** The image keeps it. */
  readonly persistent: boolean;
}

/** A bitmap of this or of another node. */
export interface BitmapReference {
  readonly bitmaps: DirtyBitmaps;
  readonly name: string;
}

export class DirtyBitmaps {
  readonly #nodeName: string;
  readonly #clusterSize: number;
  readonly #diskLength: () => number;
  readonly #storage: BitmapStorage | null;
  #list: readonly DirtyBitmap[];

  /** @param storage null for drivers that keep no bitmaps; @param list those that the image keeps */
  constructor(
    node: { readonly name: string; readonly clusterSize: number; readonly length: () => number },
    storage: BitmapStorage | null,
    list: readonly DirtyBitmap[] = [],
  ) {
    this.#nodeName = node.name;
    this.#clusterSize = node.clusterSize;
    this.#diskLength = node.length;
    this.#storage = storage;
    this.#list = list;
  }

  /** In the order in which they were made; those of the image first. */
  list(): readonly DirtyBitmap[] {
    return this.#list;
  }

  /** Those that the image keeps; null when it is of a kind that keeps none. */
  persistent(): readonly DirtyBitmap[] | null {
    return this.#storage?.storesBitmaps === true ? this.#list.filter(({ persistent }) => persistent) : null;
  }

  /** Bytes of the disk. */
  get diskLength(): number {
    return this.#diskLength();
  }

  /** The range is being written: the caller holds it in the tracker. */
  mark(offset: number, length: number): void {
    for (const bitmap of this.#list) if (bitmap.enabled) bitmap.mark(offset, length);
  }

  /** Whether a write of this range would mark nothing that is not marked. */
  covers(offset: number, length: number): boolean {
    return this.#list.every((bitmap) => !bitmap.enabled || bitmap.covers(offset, length));
  }

  /** @throws {BlockError} ENOENT. */
  find(name: string): DirtyBitmap {
    const found = this.#list.find((bitmap) => bitmap.name === name);
    if (found === undefined) throw new BlockError("ENOENT", `Dirty bitmap '${name}' not found`);
    return found;
  }

  /** The same for a bitmap that can be relied on. @throws {BlockError} ENOENT, EINVAL when it is inconsistent. */
  findUsable(name: string): DirtyBitmap {
    const found = this.find(name);
    if (found.inconsistent)
      throw new BlockError("EINVAL", `Bitmap '${name}' is inconsistent and cannot be used`, { hint: HINT });
    return found;
  }

  /** @throws {BlockError} EINVAL, ENOTSUP, or EEXIST, with QEMU's text. */
  add({ name, granularity = this.#defaultGranularity, enabled = true, persistent }: NewBitmap): DirtyBitmap {
    if (name === "") throw new BlockError("EINVAL", "Bitmap name cannot be empty");
    if (granularity < GRANULARITY_MIN || granularity > GRANULARITY_MAX || !isPowerOfTwo(granularity))
      throw new BlockError("EINVAL", `Granularity must be power of 2 and at least ${GRANULARITY_MIN}`);
    if (persistent) this.#checkStorable(name, granularity);
    if (this.#list.some((other) => other.name === name))
      throw new BlockError("EEXIST", `Bitmap already exists: ${name}`);
    const bitmap = new DirtyBitmap({ name, granularity, enabled, persistent });
    this.#list = [...this.#list, bitmap];
    return bitmap;
  }

  /** @throws {BlockError} ENOENT. */
  *remove(name: string): Co<void> {
    const bitmap = this.find(name);
    if (bitmap.persistent && this.#storage !== null) yield* this.#storage.forget(bitmap);
    this.#list = this.#list.filter((other) => other !== bitmap);
  }

  /**
   * Marks in a bitmap what others have marked.
   * @throws {BlockError} as {@link findUsable} does; EINVAL when the disks differ in length. Nothing is marked then.
   */
  *merge(name: string, sources: readonly BitmapReference[]): Co<void> {
    this.find(name);
    const found = sources.map((source) => source.bitmaps.find(source.name));
    const target = this.findUsable(name);
    for (const source of sources) {
      source.bitmaps.findUsable(source.name);
      const { diskLength } = source.bitmaps;
      if (diskLength !== this.diskLength)
        throw new BlockError(
          "EINVAL",
          "Bitmaps are of different sizes " +
            `(destination size is ${this.diskLength}, source size is ${diskLength}) and can't be merged`,
        );
    }
    for (const source of found) yield* target.merge(source);
  }

  /**
   * Lets them follow a change of the disk's length: what is added is not marked.
   * @throws {BlockError} EINVAL when one cannot follow; nothing is changed then.
   */
  *resize(length: number, change: Co<void>): Co<void> {
    for (const { name, persistent } of this.#list) if (persistent) this.findUsable(name);
    yield* change;
    for (const bitmap of this.#list) if (!bitmap.inconsistent) yield* bitmap.truncate(length);
  }

  get #defaultGranularity(): number {
    if (this.#clusterSize <= 1) return GRANULARITY_DEFAULT;
    return Math.min(GRANULARITY_DEFAULT, Math.max(GRANULARITY_DEFAULT_MIN, this.#clusterSize));
  }

  #checkStorable(name: string, granularity: number): void {
    if (this.#storage === null)
      throw new BlockError("ENOTSUP", `Can't store persistent bitmaps to ${this.#nodeName}: Operation not supported`);
    this.#storage.checkStorable({ name, granularity }, this.#list);
  }
}
