/**
 * Images with a few fields changed, for comparing verdicts with QEMU's: of every kind that QEMU can make, with snapshots,
 * bitmaps and compressed clusters, changed at places that hold metadata to values that are nearly right.
 */
import type { SeededRandom } from "@spindle/base";
import type { QemuImages } from "./qemu-images.ts";

/** An image, and where a change of it goes deep. */
export interface MutationBase {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Offsets of the header's fields, and of the entries of all tables. */
  readonly header: readonly number[];
  readonly entries: readonly number[];
  readonly clusterSize: number;
}

const WRITES = ["write -P 1 0 200k", "write -P 2 700k 20k", "write -z 300k 70k", "write -P 3 1M 3k", "discard 64k 64k"];

/** Makes the images that are changed: about a second. */
export function makeMutationBases(images: QemuImages): MutationBase[] {
  const make = (name: string, options: string, ...commands: string[]): void => {
    images.img("create", "-q", "-f", "qcow2", "-o", options, name, "2M");
    images.io(name, ...WRITES, ...commands);
  };
  make("plain", "cluster_size=64k");
  make("small", "cluster_size=512");
  make("old", "cluster_size=4k,compat=0.10");
  make("packed", "cluster_size=4k", "write -c -P 5 400k 64k", "write -c -P 6 500k 4k");
  make("zstd", "cluster_size=4k,compression_type=zstd", "write -c -P 5 400k 64k");
  make("bit", "cluster_size=1k,refcount_bits=1");
  make("byte", "cluster_size=4k,refcount_bits=8");
  make("wide", "cluster_size=4k,refcount_bits=64");
  make(
    "extended",
    "extended_l2=on,cluster_size=16k",
    "write -c -P 5 400k 64k",
    "write -z 10k 3k",
    "write -z -u 768k 32k",
  );
  make("apart", "cluster_size=4k,data_file=apart.raw");
  make("snapshots", "cluster_size=4k");
  for (const name of ["one", "two"]) {
    images.img("snapshot", "-c", name, "snapshots");
    images.io("snapshots", "write -P 9 100k 30k", "write -P 8 1500k 10k");
  }
  make("bitmaps", "cluster_size=4k");
  images.img("bitmap", "--add", "bitmaps", "b0");
  images.img("bitmap", "--add", "-g", "4k", "bitmaps", "b1");
  images.io("bitmaps", "write -P 4 600k 30k");
  return [
    "plain",
    "small",
    "old",
    "packed",
    "zstd",
    "bit",
    "byte",
    "wide",
    "extended",
    "apart",
    "snapshots",
    "bitmaps",
  ].map((name) => baseOf(name, images.bytes(name)));
}

function baseOf(name: string, bytes: Uint8Array): MutationBase {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const clusterSize = 2 ** view.getUint32(20);
  const header = Array.from({ length: view.getUint32(4) === 3 ? 26 : 18 }, (_, index) => index * 4);
  const used = (offset: number, length: number): number[] => {
    const found: number[] = [];
    for (let at = offset; at + 8 <= Math.min(offset + length, bytes.length); at += 8)
      if (view.getBigUint64(at) !== 0n) found.push(at);
    return found;
  };
  const pointed = (at: number): number => Number(view.getBigUint64(at) & 0x00fffffffffffe00n);
  const l1 = used(Number(view.getBigUint64(40)), view.getUint32(36) * 8);
  const blocks = used(Number(view.getBigUint64(48)), clusterSize);
  const snapshots = view.getUint32(60) > 0 ? used(Number(view.getBigUint64(64)), 160) : [];
  const l2 = l1.flatMap((at) => used(pointed(at), clusterSize));
  const counts = blocks.flatMap((at) => used(pointed(at), clusterSize));
  return { name, bytes, clusterSize, header, entries: [...l1, ...blocks, ...snapshots, ...l2, ...l2, ...counts] };
}

/** A copy with one to three changes, most of them in tables. */
export function mutate(base: MutationBase, random: SeededRandom): Uint8Array {
  const bytes = base.bytes.slice();
  const view = new DataView(bytes.buffer);
  for (let change = 0; change < 1 + random.below(3); change++) {
    if (random.chance(0.08)) view.setUint32(random.pick(base.header), changedField(random));
    else changeEntry(view, random.pick(base.entries), base, random);
  }
  return random.chance(0.04) ? bytes.slice(0, random.below(bytes.length)) : bytes;
}

function changedField(random: SeededRandom): number {
  return random.pick([0, 1, 2, 3, 4, 9, 16, 21, 512, 4096, 65_536, 0x7fffffff, 0x80000000, 0xffffffff]);
}

function changeEntry(view: DataView, at: number, base: MutationBase, random: SeededRandom): void {
  if (random.chance(0.12)) view.setUint8(at + random.below(8), random.below(256));
  else view.setBigUint64(at, changedEntry(view, view.getBigUint64(at), base, random));
}

function changedEntry(
  view: DataView,
  old: bigint,
  { clusterSize, entries }: MutationBase,
  random: SeededRandom,
): bigint {
  const clusters = Math.ceil(view.byteLength / clusterSize);
  switch (random.below(7)) {
    case 0:
      return old ^ (1n << BigInt(random.below(64)));
    case 1:
      return (old & ~0x00fffffffffffe00n) | BigInt(random.below(clusters) * clusterSize);
    case 2:
      return view.getBigUint64(random.pick(entries));
    case 3:
      return old + BigInt(random.pick([1, 2, 512, clusterSize / 2, clusterSize * clusters]));
    case 4:
      return 0n;
    case 5:
      return old ^ (1n << 63n);
    default:
      return old ^ random.pick([1n, 1n << 62n, 3n << 62n, 1n << 56n, 1n << 8n]);
  }
}
