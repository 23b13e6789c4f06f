/** An image format that keeps its clusters in memory and has a backing file: the least that a stream job needs. */
import { BlockError, type Co, sleep } from "@spindle/base";
import {
  type BackingFile,
  type BlockDriver,
  type DriverDefinition,
  type Extent,
  IoVector,
  type OpenRequest,
  unallocatedExtent,
} from "@spindle/block";

const CLUSTER = 65536;

/** Makes reads and writes of all layers fail while it is set. */
export interface Trouble {
  error: BlockError | undefined;
}

class MemoryLayer implements BlockDriver {
  readonly name = "layer";
  readonly requestAlignment = CLUSTER;
  readonly clusterSize = CLUSTER;
  backingFile: BackingFile | null = null;
  readonly #request: OpenRequest;
  readonly #trouble: Trouble;
  readonly #clusters: Map<number, Uint8Array> = new Map();

  constructor(request: OpenRequest, trouble: Trouble) {
    this.#request = request;
    this.#trouble = trouble;
  }

  length(): number {
    return this.#request.options["size"] as number;
  }

  *read(offset: number, vector: IoVector): Co<void> {
    for (let done = 0; done < vector.length; done += CLUSTER) {
      const part = vector.slice(done, CLUSTER);
      const stored = this.#clusters.get(offset + done);
      const { backing } = this.#request.children;
      if (stored !== undefined) part.copyFrom(stored);
      else if (backing === null) part.fill(0);
      else yield* backing.read(offset + done, part);
    }
  }

  *write(offset: number, vector: IoVector): Co<void> {
    this.#check();
    for (let done = 0; done < vector.length; done += CLUSTER)
      this.#clusters.set(offset + done, vector.slice(done, CLUSTER).toBytes().slice());
  }

  *writeZeroes(offset: number, length: number): Co<void> {
    yield* this.write(offset, IoVector.of(new Uint8Array(length)));
  }

  *discard(): Co<void> {}
  *flush(): Co<void> {}
  *close(): Co<void> {}

  *blockStatus(offset: number, length: number): Co<Extent> {
    const run = Math.min(length, CLUSTER - (offset % CLUSTER));
    if (!this.#clusters.has(offset - (offset % CLUSTER))) return unallocatedExtent(run);
    return { length: run, allocated: true, zero: false, data: true, compressed: false };
  }

  *truncate(): Co<void> {
    throw new BlockError("ENOTSUP", "a layer keeps its length");
  }

  *changeBackingFile(backing: BackingFile | null): Co<void> {
    this.backingFile = backing;
  }

  #check(): void {
    if (this.#trouble.error !== undefined) throw this.#trouble.error;
  }
}

export function layerFormat(trouble: Trouble): DriverDefinition {
  return {
    name: "layer",
    kind: "format",
    options: { size: "number" },
    supportsBacking: true,
    *open(request) {
      // Opening takes time, as it does with images.
      yield* sleep(request.environment.clock, 1);
      return new MemoryLayer(request, trouble);
    },
  };
}
