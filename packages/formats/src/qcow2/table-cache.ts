/**
 * Tables of one cluster each (L2 tables, refcount blocks) in memory: bounded, least recently used first out, and never
 * a changed one before it is in the file.
 */

export interface CachedTable {
  /** The key under which it is found: its index in the L1 or refcount table. */
  readonly index: number;
  readonly hostOffset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** It differs from the file. */
  dirty: boolean;
  /** Nothing in the file points at it yet. */
  fresh: boolean;
  /** It is on its way to the file, which may still hold something else. */
  writing: boolean;
}

export function makeTable(index: number, hostOffset: number, bytes: Uint8Array): CachedTable {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { index, hostOffset, bytes, view, dirty: false, fresh: false, writing: false };
}

export class TableCache {
  readonly #capacity: number;
  readonly #tables: Map<number, CachedTable> = new Map();
  readonly #dirty: Set<CachedTable> = new Set();
  #last: CachedTable | undefined;

  /** @param capacity tables kept at most, apart from changed ones */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get dirtyCount(): number {
    return this.#dirty.size;
  }

  get(index: number): CachedTable | undefined {
    if (this.#last?.index === index) return this.#last;
    const table = this.#tables.get(index);
    if (table === undefined) return undefined;
    // Moving it to the end of the map makes it the most recently used.
    this.#tables.delete(index);
    this.#tables.set(index, table);
    this.#last = table;
    return table;
  }

  put(table: CachedTable): void {
    this.#tables.delete(table.index);
    this.#tables.set(table.index, table);
    this.#last = table;
    if (this.#tables.size > this.#capacity) this.#evict();
  }

  /** Takes a table out whose place in the file is given up. */
  remove(table: CachedTable): void {
    this.#dirty.delete(table);
    if (this.#tables.get(table.index) === table) this.#tables.delete(table.index);
    if (this.#last === table) this.#last = undefined;
  }

  /** Forgets all tables, of which none is changed. */
  clear(): void {
    this.#tables.clear();
    this.#last = undefined;
  }

  markDirty(table: CachedTable): void {
    table.dirty = true;
    this.#dirty.add(table);
  }

  markClean(table: CachedTable): void {
    table.dirty = false;
    this.#dirty.delete(table);
  }

  dirtyTables(): CachedTable[] {
    return [...this.#dirty];
  }

  #evict(): void {
    for (const table of this.#tables.values()) {
      if (this.#tables.size <= this.#capacity) return;
      if (!table.dirty && !table.writing && table !== this.#last) this.#tables.delete(table.index);
    }
  }
}
