/**
 * A file in memory: the protocol driver under formats in tests. It grows when it is written beyond its end, has holes,
 * and every request is an operation, so that a runner or the simulator decides when it happens.
 */
import { BlockError, type Co, perform } from "@spindle/base";
import {
  type BlockDriver,
  type DriverDefinition,
  type Extent,
  type IoVector,
  type OpenRequest,
  zeroExtent,
} from "@spindle/block";
import { SparseBytes } from "./sparse-bytes.ts";

export interface MemoryDriverOptions {
  /** The driver's QMP name; `memory` when absent. */
  readonly name?: string;
  /** What tells this file from others in a graph. */
  readonly identity?: string;
}

export class MemoryDriver implements BlockDriver {
  readonly name: string;
  readonly identity: string | undefined;
  readonly requestAlignment: number = 1;
  readonly clusterSize = 1;
  readonly growable = true;
  /** What is stored; tests look at it and change it behind the driver's back. */
  readonly content: SparseBytes;

  /** @param content the bytes to start with, or a length in bytes for that many zeros */
  constructor(content: SparseBytes | Uint8Array | number = 0, options: MemoryDriverOptions = {}) {
    this.name = options.name ?? "memory";
    this.identity = options.identity;
    if (content instanceof SparseBytes) this.content = content;
    else this.content = content instanceof Uint8Array ? SparseBytes.of(content) : new SparseBytes(content);
  }

  length(): number {
    return this.content.length;
  }

  *read(offset: number, vector: IoVector): Co<void> {
    yield* effect(() => {
      let position = offset;
      for (const buffer of vector.buffers) {
        this.content.read(position, buffer);
        position += buffer.length;
      }
    });
  }

  *write(offset: number, vector: IoVector): Co<void> {
    yield* effect(() => {
      let position = offset;
      for (const buffer of vector.buffers) {
        this.content.write(position, buffer);
        position += buffer.length;
      }
    });
  }

  *writeZeroes(offset: number, length: number): Co<void> {
    yield* effect(() => this.content.zero(offset, length));
  }

  *discard(offset: number, length: number): Co<void> {
    yield* effect(() => this.content.zero(offset, Math.min(length, Math.max(0, this.content.length - offset))));
  }

  *flush(): Co<void> {
    yield* effect(() => {});
  }

  *blockStatus(offset: number, length: number): Co<Extent> {
    const run = this.content.run(offset, length);
    if (!run.data) return zeroExtent(run.length);
    return { length: run.length, allocated: true, zero: false, data: true, compressed: false, hostOffset: offset };
  }

  *truncate(length: number): Co<void> {
    yield* effect(() => this.content.truncate(length));
  }

  *close(): Co<void> {}
}

function effect(action: () => void): Co<void> {
  return perform<void>({
    kind: "operation",
    perform: action,
    start(settle) {
      void Promise.resolve().then(() => {
        let failure: unknown;
        try {
          action();
        } catch (error) {
          failure = error;
        }
        settle(failure);
      });
    },
  });
}

/**
 * A file system in memory, as a protocol driver of a graph: `{driver: "memory", filename: "base.img"}` opens the file of
 * that name. Register it under the name `file` where a graph opens images by their file names.
 */
export class MemoryFiles implements DriverDefinition {
  readonly name: string;
  readonly kind = "protocol";
  readonly options = { filename: "string" } as const;
  readonly #files: Map<string, SparseBytes> = new Map();

  constructor(name = "memory") {
    this.name = name;
  }

  /** Makes a file, or replaces it. */
  put(filename: string, content: SparseBytes | Uint8Array | number = 0): void {
    this.#files.set(filename, new MemoryDriver(content).content);
  }

  /** What a file holds now. */
  content(filename: string): SparseBytes {
    const content = this.#files.get(filename);
    if (content === undefined)
      throw new BlockError("ENOENT", `Could not open '${filename}': No such file or directory`, { path: filename });
    return content;
  }

  *open(request: OpenRequest): Co<BlockDriver> {
    const filename = String(request.options["filename"]);
    return new MemoryDriver(this.content(filename), { name: this.name, identity: filename });
  }
}
