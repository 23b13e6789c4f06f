/**
 * The system with one thing wrong at a time, put together from wrappers: what the histories must notice. Each is a
 * mistake that somebody could make in earnest, and that a test with one request at a time would never see.
 */
import type { Co } from "@spindle/base";
import { type BlockDriver, type BlockNode, type DriverDefinition, type Extent, IoVector } from "@spindle/block";
import { type Copier, type CopierOptions, type CopyOutcome, LocalCopier } from "@spindle/jobs";
import { LockKind, RangeLock, type Thread } from "@spindle/shared-memory";
import { CROWDED, type Mutant } from "./history.ts";
import { TRACKER_SLOTS } from "./image-chain.ts";

/** Takes the locks of one kind as if they were of another. */
function lockingAs(wrong: LockKind, instead: LockKind): (thread: Thread) => RangeLock {
  class WrongLock extends RangeLock {
    override tryAcquire(kind: LockKind, start: number, end: number): number {
      return super.tryAcquire(kind === wrong ? instead : kind, start, end);
    }
    override acquire(kind: LockKind, start: number, end: number, canceled?: () => boolean): Co<number> {
      return super.acquire(kind === wrong ? instead : kind, start, end, canceled);
    }
  }
  return (thread) => new WrongLock(RangeLock.create({ slots: TRACKER_SLOTS }), thread);
}

/** An object whose methods are those of another, but for a few; private fields stay where they are. */
function altered<T extends object>(original: T, changes: Partial<T>): T {
  return new Proxy(original, {
    get(target, key) {
      if (Object.hasOwn(changes, key)) return changes[key as keyof T];
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
    set: (target, key, value) => Reflect.set(target, key, value, target),
  });
}

/** The format with a driver that differs in a few methods. */
function alteredFormat(
  format: DriverDefinition,
  alter: (driver: BlockDriver, children: { readonly file: BlockNode | null }) => Partial<BlockDriver>,
): DriverDefinition {
  return {
    ...format,
    *open(request) {
      const driver = yield* format.open(request);
      return request.readOnly ? driver : altered(driver, alter(driver, request.children));
    },
  };
}

/** Answers questions about a range with what was true when it was asked about first. */
function remembersStatus(driver: BlockDriver): Partial<BlockDriver> {
  const unallocated = new Set<number>();
  return {
    *blockStatus(offset: number, length: number): Co<Extent> {
      const unit = driver.clusterSize;
      const status = yield* driver.blockStatus(offset, length);
      const index = Math.floor(offset / unit);
      if (!status.allocated) {
        for (let at = index; at * unit < offset + status.length; at++) unallocated.add(at);
        return status;
      }
      if (!unallocated.has(index)) return status;
      const left = Math.min(length, (index + 1) * unit - offset);
      return { length: left, allocated: false, zero: false, data: false, compressed: false };
    },
  };
}

/** Lets the map point at clusters before their data is there. */
class PublishesFirst extends LocalCopier {
  readonly #top: BlockNode;

  constructor(options: CopierOptions) {
    super(options);
    this.#top = options.top;
  }

  override *copy(offset: number, length: number): Co<CopyOutcome> {
    const { driver, children } = this.#top;
    const map = driver.clusters;
    const { backing, file } = children;
    if (map === undefined || file === null || length % map.clusterSize !== 0) return yield* super.copy(offset, length);
    for (let done = 0; done < length; ) {
      const allocation = yield* map.allocate(offset + done, length - done);
      yield* map.publish(allocation);
      const bytes = new Uint8Array(allocation.length);
      const present = Math.max(0, Math.min(bytes.length, (backing?.length ?? 0) - allocation.guestOffset));
      if (present > 0) yield* backing?.read(allocation.guestOffset, IoVector.of(bytes.subarray(0, present))) ?? [];
      yield* file.write(allocation.hostOffset, IoVector.of(bytes));
      done += allocation.length;
    }
    return { dataBytes: length, zeroBytes: 0 };
  }
}

/** Copies from the lowest layer, whatever the layers between say. */
class ReadsLowestLayer extends LocalCopier {
  constructor(options: CopierOptions) {
    const lowest = (node: BlockNode): BlockNode => (node.children.backing ? lowest(node.children.backing) : node);
    super({ ...options, top: altered(options.top, { children: { file: null, backing: lowest(options.top) } }) });
  }
}

const localCopier = (options: CopierOptions): Copier => new LocalCopier(options);

export const MUTANTS: readonly Mutant[] = [
  { name: "the tracker takes copies for reads", createTracker: lockingAs(LockKind.copy, LockKind.read) },
  {
    name: "the tracker takes exclusive writes for plain ones",
    createTracker: lockingAs(LockKind.exclusiveWrite, LockKind.write),
  },
  { name: "the chain is changed under the guests' requests", createTracker: lockingAs(LockKind.change, LockKind.read) },
  { name: "a copy does not look again under its lock", qcow2: (format) => alteredFormat(format, remembersStatus) },
  { name: "clusters are published before they are written", createCopier: (options) => new PublishesFirst(options) },
  { name: "copies come from the lowest layer", createCopier: (options) => new ReadsLowestLayer(options) },
  {
    name: "clusters of zeros are left out above a base",
    createCopier: (options) => localCopier({ ...options, zeroClusters: "leave" }),
  },
  {
    name: "the backing file is dropped before what was copied is durable",
    qcow2: (format) =>
      alteredFormat(format, (driver, { file }) => ({
        *changeBackingFile(backing): Co<void> {
          if (backing === null) {
            yield* file?.write(8, IoVector.of(new Uint8Array(12))) ?? [];
            yield* file?.flush() ?? [];
          }
          yield* driver.changeBackingFile?.(backing) ?? [];
        },
      })),
    jobNode: (node) => altered(node, { *flush(): Co<void> {} }),
  },
  {
    name: "a flush does not reach the storage",
    qcow2: (format) => alteredFormat(format, () => ({ *flush(): Co<void> {} })),
  },
  {
    name: "ports remember where clusters stood",
    cacheOf: (cache) => altered(cache, { invalidate(): void {} }),
  },
  {
    name: "a freed cluster is used again while a request still reads it",
    histories: { shape: CROWDED, requests: 80, crashStates: 0 },
    qcow2: (format) => ({
      ...format,
      open: (request) =>
        format.open({ ...request, inFlight: { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY } }),
    }),
  },
];
