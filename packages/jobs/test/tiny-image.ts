/**
 * The smallest format with clusters, backing files and copy-on-write: its map lives in memory, its data in its file. Every
 * step that a real format does with its metadata is an operation on the file here, so that the simulator can put
 * anything between any two of them. It checks that nothing is published before its data was written.
 */
import { assert, BlockError, type Co } from "@spindle/base";
import {
  type Allocation,
  type BackingFile,
  type BlockDriver,
  type BlockNode,
  type ClusterMap,
  type DriverDefinition,
  type Extent,
  IoVector,
  type Mapping,
  type OpenRequest,
  unallocatedExtent,
  zeroExtent,
} from "@spindle/block";

type Cluster = number | "zero" | undefined;

export class TinyImage implements BlockDriver {
  readonly name = "tiny";
  readonly requestAlignment = 1;
  readonly clusterSize: number;
  readonly clusters: ClusterMap;
  backingFile: BackingFile | null;
  readonly #children: OpenRequest["children"];
  readonly #map: Map<number, Cluster> = new Map();
  #size: number;
  #nextHost = 0;
  /** Clusters that an allocating write is busy with: nothing else may change them meanwhile. */
  readonly #busy: Set<number> = new Set();
  /** Called before every change; throws what the test wants to go wrong. */
  fault: (step: "allocate" | "write" | "publish" | "flush" | "header") => void = () => {};
  readonly log: string[] = [];

  constructor(request: OpenRequest) {
    this.#children = request.children;
    this.clusterSize = request.options["cluster-size"] as number;
    this.#size = request.options["size"] as number;
    const backing = request.options["backing-name"];
    this.backingFile = typeof backing === "string" ? { filename: backing, format: "tiny" } : null;
    this.clusters = {
      clusterSize: this.clusterSize,
      subclusterSize: this.clusterSize,
      lookup: (offset, length) => this.#lookup(offset, length),
      allocate: (guestOffset, length) => this.#allocate(guestOffset, length),
      publish: (allocation) => this.#publish(allocation),
      release: (allocation) => this.#release(allocation),
      zero: (guestOffset, length) => this.#zero(guestOffset, length),
      discard: (guestOffset, length) => this.discard(guestOffset, length),
      *readCompressed(): Co<void> {
        throw new BlockError("ENOTSUP", "nothing is compressed here");
      },
      flush: () => this.flush(),
    };
  }

  get #file(): BlockNode {
    return this.#children.file as BlockNode;
  }

  length(): number {
    return this.#size;
  }

  *read(offset: number, vector: IoVector): Co<void> {
    for (let done = 0; done < vector.length; ) {
      const at = offset + done;
      const take = Math.min(vector.length - done, this.clusterSize - (at % this.clusterSize));
      yield* this.#readPart(at, vector.slice(done, take));
      done += take;
    }
  }

  *#readPart(at: number, part: IoVector): Co<void> {
    const cluster = this.#map.get(Math.floor(at / this.clusterSize));
    const { backing } = this.#children;
    if (typeof cluster === "number") yield* this.#file.read(cluster + (at % this.clusterSize), part);
    else if (cluster === "zero" || backing === null) part.fill(0);
    else {
      const present = Math.max(0, Math.min(part.length, backing.length - at));
      if (present > 0) yield* backing.read(at, part.slice(0, present));
      part.slice(present, part.length - present).fill(0);
    }
  }

  *writesInPlace(offset: number, length: number): Co<boolean> {
    for (let at = offset - (offset % this.clusterSize); at < offset + length; at += this.clusterSize)
      if (typeof this.#map.get(at / this.clusterSize) !== "number") return false;
    return true;
  }

  *write(offset: number, vector: IoVector): Co<void> {
    for (let done = 0; done < vector.length; ) {
      const at = offset + done;
      const take = Math.min(vector.length - done, this.clusterSize - (at % this.clusterSize));
      yield* this.#writePart(at, vector.slice(done, take));
      done += take;
    }
  }

  *#writePart(at: number, part: IoVector): Co<void> {
    const index = Math.floor(at / this.clusterSize);
    const cluster = this.#map.get(index);
    this.fault("write");
    if (typeof cluster === "number") {
      yield* this.#file.write(cluster + (at % this.clusterSize), part);
      return;
    }
    yield* this.#exclusive(index, () => this.#copyOnWrite(index, at, part));
  }

  *#copyOnWrite(index: number, at: number, part: IoVector): Co<void> {
    const whole = new Uint8Array(this.clusterSize);
    const start = index * this.clusterSize;
    const present = Math.min(this.clusterSize, this.#size - start);
    if (part.length < present) yield* this.#readPart(start, IoVector.of(whole.subarray(0, present)));
    part.copyTo(whole.subarray(at - start));
    const allocation = yield* this.#allocate(start, this.clusterSize);
    yield* this.#file.write(allocation.hostOffset, IoVector.of(whole));
    yield* this.#pointAt(index, allocation.hostOffset);
  }

  *writeZeroes(offset: number, length: number): Co<void> {
    yield* this.#clear(offset, length, true);
  }

  *discard(offset: number, length: number): Co<void> {
    yield* this.#clear(offset, length, false);
  }

  *#clear(offset: number, length: number, parts: boolean): Co<void> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const next = Math.min(end, at - (at % this.clusterSize) + this.clusterSize);
      const whole = at % this.clusterSize === 0 && (next % this.clusterSize === 0 || next === this.#size);
      const index = Math.floor(at / this.clusterSize);
      this.fault("write");
      if (whole) yield* this.#exclusive(index, () => this.#pointAt(index, "zero"));
      else if (parts) yield* this.#writePart(at, IoVector.of(new Uint8Array(next - at)));
      at = next;
    }
  }

  *flush(): Co<void> {
    this.fault("flush");
    this.log.push("flush");
    yield* this.#file.flush();
  }

  *blockStatus(offset: number, length: number): Co<Extent> {
    const mapping = yield* this.#lookup(offset, length);
    if (mapping.kind === "unallocated") return unallocatedExtent(mapping.length);
    if (mapping.kind === "zero") return zeroExtent(mapping.length);
    return { length: mapping.length, allocated: true, zero: false, data: true, compressed: false };
  }

  *truncate(length: number): Co<void> {
    for (const index of [...this.#map.keys()]) if (index * this.clusterSize >= length) this.#map.delete(index);
    const old = this.#size;
    this.#size = length;
    // What the backing file, or a cluster from before, has behind the old end must not show through.
    if (length > old) yield* this.writeZeroes(old, length - old);
  }

  *close(): Co<void> {}

  *changeBackingFile(backing: BackingFile | null): Co<void> {
    this.fault("header");
    this.log.push(`header ${backing?.filename ?? null}`);
    yield* this.#file.flush();
    this.backingFile = backing;
  }

  /** Clusters that are stored, for counting. */
  get dataClusters(): number {
    return [...this.#map.values()].filter((cluster) => typeof cluster === "number").length;
  }

  *#lookup(offset: number, length: number): Co<Mapping> {
    const first = this.#map.get(Math.floor(offset / this.clusterSize));
    const kind = typeof first === "number" ? "data" : (first ?? "unallocated");
    let end = Math.floor(offset / this.clusterSize) + 1;
    while (end * this.clusterSize < offset + length && kindOf(this.#map.get(end)) === kind) end += 1;
    return { kind, length: Math.min(end * this.clusterSize, offset + length) - offset };
  }

  *#zero(guestOffset: number, length: number): Co<boolean> {
    yield* this.writeZeroes(guestOffset, length);
    return true;
  }

  *#allocate(guestOffset: number, length: number): Co<Allocation> {
    this.fault("allocate");
    yield* this.#file.flush();
    const hostOffset = this.#nextHost;
    this.#nextHost += length;
    return { guestOffset, length, hostOffset, reserved: true };
  }

  *#publish({ guestOffset, length, hostOffset }: Allocation): Co<void> {
    for (let done = 0; done < length; done += this.clusterSize) {
      const index = (guestOffset + done) / this.clusterSize;
      yield* this.#exclusive(index, () => this.#pointAt(index, hostOffset + done));
    }
  }

  *#release(_allocation: Allocation): Co<void> {
    yield* this.#file.flush();
  }

  *#pointAt(index: number, cluster: Cluster): Co<void> {
    this.fault("publish");
    yield* this.#file.flush();
    if (typeof cluster === "number")
      assert(cluster + this.clusterSize <= this.#file.length, "a cluster was published before its data was written");
    this.#map.set(index, cluster);
  }

  *#exclusive(index: number, change: () => Co<void>): Co<void> {
    assert(!this.#busy.has(index), `two requests change cluster ${index} at once`);
    this.#busy.add(index);
    try {
      yield* change();
    } finally {
      this.#busy.delete(index);
    }
  }
}

function kindOf(cluster: Cluster): string {
  return typeof cluster === "number" ? "data" : (cluster ?? "unallocated");
}

/** `{driver: "tiny", size, "cluster-size", "backing-name"?, file, backing}`: empty each time that it is opened. */
export const tinyFormat: DriverDefinition = {
  name: "tiny",
  kind: "format",
  options: { size: "number", "cluster-size": "number", "backing-name": "string" },
  supportsBacking: true,
  *open(request: OpenRequest): Co<BlockDriver> {
    return new TinyImage(request);
  },
};
