/**
 * What `qemu-img check` looks for, written from the specification for the tests alone: every cluster that something
 * refers to is counted as often as that, and what is counted more often is a leak. It shares no code with the driver.
 */

export interface CheckResult {
  /** Clusters that are counted more often than they are referred to. */
  readonly leaks: number;
  /** Everything else that is wrong, in words. */
  readonly corruptions: readonly string[];
}

const COPIED = 2n ** 63n;
const COMPRESSED = 2n ** 62n;
const OFFSET_MASK = 2n ** 56n - 512n;
const EXTENDED_L2 = 2n ** 4n;
const WORD = 2n ** 32n;

/** Images without snapshots and bitmaps, with 16-bit counts. */
export function checkQcow2(image: Uint8Array): CheckResult {
  return new Checker(image).run();
}

class Checker {
  readonly #view: DataView;
  readonly #clusterBits: number;
  readonly #clusterSize: number;
  readonly #version: number;
  /** Bytes of an entry of an L2 table: 16 where subclusters have bits. */
  readonly #entryBytes: number;
  readonly #references: Map<number, number> = new Map();
  readonly #corruptions: string[] = [];
  /** What the entries say of whether they are the only reference, by cluster. */
  readonly #copied: Map<number, { readonly copied: boolean; readonly what: string }> = new Map();

  constructor(image: Uint8Array) {
    this.#view = new DataView(image.buffer, image.byteOffset, image.byteLength);
    this.#version = this.#view.getUint32(4);
    this.#entryBytes = this.#version >= 3 && (this.#view.getBigUint64(72) & EXTENDED_L2) !== 0n ? 16 : 8;
    this.#clusterBits = this.#view.getUint32(20);
    this.#clusterSize = 2 ** this.#clusterBits;
  }

  run(): CheckResult {
    this.#refer(0, "the header");
    const tableOffset = this.#u64(48);
    const tableClusters = this.#view.getUint32(56);
    for (let index = 0; index < tableClusters; index++)
      this.#refer(tableOffset + index * this.#clusterSize, "the refcount table");
    const blocks = this.#refcountBlocks(tableOffset, tableClusters);
    const l1Entries = this.#view.getUint32(36);
    const l1Offset = this.#u64(40);
    for (let at = 0; at < l1Entries * 8; at += this.#clusterSize) this.#refer(l1Offset + at, "the L1 table");
    for (let index = 0; index < l1Entries; index++) this.#checkL2(this.#entry(l1Offset + index * 8), index);
    return { leaks: this.#compare(blocks), corruptions: this.#corruptions };
  }

  /** The offsets of the refcount blocks, by their index in the table. */
  #refcountBlocks(tableOffset: number, tableClusters: number): number[] {
    const blocks: number[] = [];
    for (let index = 0; index < (tableClusters * this.#clusterSize) / 8; index++) {
      const offset = Number(this.#entry(tableOffset + index * 8));
      blocks.push(offset);
      if (offset !== 0) this.#refer(offset, `refcount block ${index}`);
    }
    return blocks;
  }

  #checkL2(l1Entry: bigint, l1Index: number): void {
    const table = Number(l1Entry & OFFSET_MASK);
    if (table === 0) return;
    const what = `L2 table ${l1Index}`;
    if (!this.#refer(table, what)) return;
    this.#noteCopied(table, l1Entry, what);
    for (let index = 0; index < this.#clusterSize / this.#entryBytes; index++) {
      const entry = this.#entry(table + index * this.#entryBytes);
      if (this.#entryBytes === 16) this.#checkBits(table + index * 16, `entry ${index} of ${what}`);
      if ((entry & COMPRESSED) !== 0n) this.#referCompressed(entry);
      else this.#referData(entry, `entry ${index} of ${what}`);
    }
  }

  /** A subcluster is data or zeros, data only in a host cluster, and neither where the cluster is compressed. */
  #checkBits(at: number, what: string): void {
    const entry = this.#entry(at);
    const bits = this.#entry(at + 8);
    const isCompressed = (entry & COMPRESSED) !== 0n;
    if (isCompressed && bits !== 0n) this.#corruptions.push(`${what} is compressed and has bits of subclusters`);
    if (((bits / WORD) & bits) !== 0n) this.#corruptions.push(`${what} has subclusters that are data and zeros`);
    if (!isCompressed && (entry & OFFSET_MASK) === 0n && bits % WORD !== 0n)
      this.#corruptions.push(`${what} has data without a cluster`);
  }

  #referData(entry: bigint, what: string): void {
    const offset = Number(entry & OFFSET_MASK);
    if (this.#version < 3 && (entry & 1n) !== 0n)
      this.#corruptions.push(`${what} has a zero flag in a version 2 image`);
    if (offset === 0) return;
    if (this.#refer(offset, what)) this.#noteCopied(offset, entry, what);
  }

  #referCompressed(entry: bigint): void {
    const sizeShift = 62n - BigInt(this.#clusterBits - 8);
    const offset = Number(entry & (2n ** sizeShift - 1n));
    const sectors = Number((entry & (COMPRESSED - 1n)) >> sizeShift) + 1;
    const end = offset - (offset % 512) + sectors * 512;
    const last = Math.min(end, this.#view.byteLength) - 1;
    for (let index = Math.floor(offset / this.#clusterSize); index <= Math.floor(last / this.#clusterSize); index++)
      this.#references.set(index, (this.#references.get(index) ?? 0) + 1);
  }

  /** @returns whether the place can be looked at. */
  #refer(offset: number, what: string): boolean {
    if (offset % this.#clusterSize !== 0) this.#corruptions.push(`${what} stands at ${offset}, inside of a cluster`);
    else if (offset >= this.#view.byteLength)
      this.#corruptions.push(`${what} stands at ${offset}, behind the file's end`);
    else {
      const index = offset / this.#clusterSize;
      const count = (this.#references.get(index) ?? 0) + 1;
      this.#references.set(index, count);
      if (count > 1) this.#corruptions.push(`${what} shares cluster ${index} with something else`);
      return true;
    }
    return false;
  }

  #noteCopied(offset: number, entry: bigint, what: string): void {
    this.#copied.set(offset / this.#clusterSize, { copied: (entry & COPIED) !== 0n, what });
  }

  /** Compares the counts with the references. @returns the number of leaks. */
  #compare(blocks: readonly number[]): number {
    const perBlock = this.#clusterSize / 2;
    let leaks = 0;
    const count = (index: number): number => {
      const block = blocks[Math.floor(index / perBlock)] ?? 0;
      if (block === 0) return 0;
      const at = block + (index % perBlock) * 2;
      return at + 2 <= this.#view.byteLength ? this.#view.getUint16(at) : 0;
    };
    for (const [index, references] of this.#references)
      if (count(index) < references)
        this.#corruptions.push(`cluster ${index} is counted ${count(index)} times and referred to ${references} times`);
    for (let index = 0; index < blocks.length * perBlock; index++) {
      if ((blocks[Math.floor(index / perBlock)] ?? 0) === 0) index += perBlock - 1;
      else if (count(index) > (this.#references.get(index) ?? 0)) leaks += 1;
    }
    for (const [index, { copied, what }] of this.#copied)
      if ((count(index) === 1) !== copied)
        this.#corruptions.push(
          `${what} says ${copied ? "not shared" : "shared"} of cluster ${index}, counted ${count(index)} times`,
        );
    return leaks;
  }

  #entry(offset: number): bigint {
    return offset + 8 <= this.#view.byteLength ? this.#view.getBigUint64(offset) : 0n;
  }

  #u64(offset: number): number {
    return Number(this.#view.getBigUint64(offset));
  }
}
