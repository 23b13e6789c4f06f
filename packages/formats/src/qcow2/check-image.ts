/** An image as a check sees it: header and tables as the file has them, whatever they say. */
import { BlockError, type Co } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { type BitmapDirectoryPlace, bitmapDirectoryPlace } from "./bitmap-directory.ts";
import { EntryLayout } from "./entry-layout.ts";
import { QCOW2_AUTOCLEAR_BITMAPS, type Qcow2Header } from "./header.ts";
import { readPadded } from "./padded-read.ts";
import { refcountMost } from "./refcount.ts";

/** Longer files are not checked, as QEMU does not. */
const CLUSTERS_MAX: number = 2 ** 31 - 1;

/** Bits of the refcount table's entries that have no meaning. */
const RESERVED_LOW = 0x1ff;

export class CheckedImage {
  readonly file: BlockNode;
  readonly clusterSize: number;
  /** How the entries of L2 tables are read and written. */
  readonly entries: EntryLayout;
  /** The largest count that an entry of a refcount block can hold. */
  readonly refcountMost: number;
  /** Clusters that one refcount block counts. */
  readonly clustersPerBlock: number;
  header: Qcow2Header;
  l1: DataView = new DataView(new ArrayBuffer(0));
  /** Entries of the refcount table, as the file has them. */
  refcountTable: DataView = new DataView(new ArrayBuffer(0));
  /** Where the bitmaps are, when there are any that are valid. */
  bitmaps: BitmapDirectoryPlace | null = null;

  private constructor(file: BlockNode, header: Qcow2Header) {
    this.file = file;
    this.header = header;
    this.clusterSize = 2 ** header.clusterBits;
    this.entries = new EntryLayout(header);
    this.refcountMost = refcountMost(header.refcountOrder);
    this.clustersPerBlock = (this.clusterSize * 8) / 2 ** header.refcountOrder;
  }

  /** @throws {BlockError} EINVAL when what the header says of bitmaps cannot be true, EFBIG when the file is too long. */
  static *open(file: BlockNode, header: Qcow2Header): Co<CheckedImage> {
    const image = new CheckedImage(file, header);
    yield* image.readL1();
    yield* image.readRefcountTable();
    const { bitmapExtension, autoclear } = header;
    if (bitmapExtension !== null && (autoclear & QCOW2_AUTOCLEAR_BITMAPS) !== 0n)
      image.bitmaps = bitmapDirectoryPlace(bitmapExtension, image.clusterSize);
    if (image.fileClusters > CLUSTERS_MAX)
      throw new BlockError("EFBIG", "the image file has too many clusters to be checked");
    return image;
  }

  /** Clusters of the file; the last one may be cut off. */
  get fileClusters(): number {
    return Math.ceil(this.file.length / this.clusterSize);
  }

  *readL1(): Co<void> {
    const l1 = new Uint8Array(this.header.l1Entries * 8);
    yield* readPadded(this.file, this.header.l1Offset, l1);
    this.l1 = new DataView(l1.buffer);
  }

  *readRefcountTable(): Co<void> {
    const { refcountTableOffset, refcountTableClusters } = this.header;
    const table = new Uint8Array(refcountTableClusters * this.clusterSize);
    yield* readPadded(this.file, refcountTableOffset, table);
    this.refcountTable = new DataView(table.buffer);
  }

  get refcountTableEntries(): number {
    return this.refcountTable.byteLength / 8;
  }

  /** Blocks up to the last one that there is. */
  get blockCount(): number {
    let count = this.refcountTableEntries;
    while (count > 0 && this.blockOffset(count - 1) === 0) count -= 1;
    return count;
  }

  /** Where a refcount block stands: bytes, 0 when there is none. */
  blockOffset(blockIndex: number): number {
    if (blockIndex >= this.refcountTableEntries) return 0;
    const low = this.refcountTable.getUint32(blockIndex * 8 + 4);
    return this.refcountTable.getUint32(blockIndex * 8) * 2 ** 32 + (low - (low % (RESERVED_LOW + 1)));
  }

  blockHasReservedBits(blockIndex: number): boolean {
    return (this.refcountTable.getUint32(blockIndex * 8 + 4) & RESERVED_LOW) !== 0;
  }

  /** Writes part of the header and makes it durable. */
  *writeHeader(offset: number, bytes: Uint8Array): Co<void> {
    yield* this.file.write(offset, IoVector.of(bytes));
    yield* this.file.flush();
  }
}
