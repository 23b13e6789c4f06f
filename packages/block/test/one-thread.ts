/** Nodes over memory on one blocking thread, for the tests of this package. */
import { type Clock, type Co, SeededRandom, SyncRunner } from "@spindle/base";
import { RangeLock, type Thread, ThreadTable } from "@spindle/shared-memory";
import { MemoryDriver, MemoryFiles } from "@spindle/testkit";
import {
  BlockNode,
  blkdebugFilter,
  copyOnReadFilter,
  DriverRegistry,
  delayFilter,
  type Environment,
  faultFilter,
  Graph,
  IoVector,
  throttleFilter,
} from "../src/index.ts";

export const clock: Clock = { now: () => performance.now() };

const environment: Environment = {
  clock,
  random: new SeededRandom(1),
  codecs: { inflateRaw: unsupported, deflateRaw: unsupported, compressZstd: unsupported, decompressZstd: unsupported },
};

function unsupported(): never {
  throw new Error("no codec is needed here");
}

export class OneThread {
  readonly thread: Thread = new ThreadTable(ThreadTable.create()).attach();
  readonly runner: SyncRunner = new SyncRunner(clock, this.thread);
  readonly files: MemoryFiles = new MemoryFiles("file");
  readonly graph: Graph = new Graph({
    environment,
    registry: new DriverRegistry([
      this.files,
      blkdebugFilter((filename) => this.#text(filename)),
      delayFilter,
      throttleFilter,
      faultFilter,
      copyOnReadFilter,
    ]),
    backingPolicy: {
      resolve: function* (_image, backing) {
        return backing.filename;
      },
    },
    createTracker: () => this.tracker(),
  });

  tracker(): RangeLock {
    return new RangeLock(RangeLock.create({ slots: 64 }), this.thread);
  }

  run<T>(co: Co<T>): T {
    return this.runner.run(co);
  }

  /** The text of a file in memory. */
  *#text(filename: string): Co<string> {
    return new TextDecoder().decode(this.files.content(filename).toBytes());
  }

  /** A node over `length` bytes of memory that takes only multiples of `alignment`. */
  node(
    length: number,
    options: { alignment?: number; readOnly?: boolean } = {},
  ): { node: BlockNode; driver: AlignedDriver } {
    const driver = new AlignedDriver(length, options.alignment ?? 1);
    const children = { file: null, backing: null };
    const readOnly = options.readOnly === true;
    return { node: new BlockNode({ name: "disk", driver, children, readOnly, tracker: this.tracker() }), driver };
  }

  read(node: BlockNode, offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.run(node.read(offset, IoVector.of(bytes)));
    return bytes;
  }
}

/** A disk of fixed length that refuses what is not aligned, as O_DIRECT does. */
export class AlignedDriver extends MemoryDriver {
  override readonly requestAlignment: number;
  readonly requests: string[] = [];

  constructor(length: number, alignment: number) {
    super(length);
    this.requestAlignment = alignment;
    Object.defineProperty(this, "growable", { value: false });
  }

  override *read(offset: number, vector: IoVector): Co<void> {
    this.#check("read", offset, vector.length);
    yield* super.read(offset, vector);
  }
  override *write(offset: number, vector: IoVector): Co<void> {
    this.#check("write", offset, vector.length);
    yield* super.write(offset, vector);
  }
  override *writeZeroes(offset: number, length: number): Co<void> {
    this.#check("write-zeroes", offset, length);
    yield* super.writeZeroes(offset, length);
  }
  override *discard(offset: number, length: number): Co<void> {
    this.#check("discard", offset, length);
    yield* super.discard(offset, length);
  }

  #check(operation: string, offset: number, length: number): void {
    this.requests.push(`${operation} ${offset} ${length}`);
    if (offset % this.requestAlignment !== 0 || length % this.requestAlignment !== 0)
      throw new Error(`unaligned ${operation} reached the driver`);
  }
}
