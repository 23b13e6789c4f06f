/**
 * The files of one simulated history, as the protocol driver `file`: each can be told to fail, the recorded one logs what
 * reaches it, and none may be used after it was closed. Descriptors are numbers that data movers use in place of the
 * kernel's.
 */
import { AssertionError, BlockError, type Clock, type Co, type SeededRandom, sleep } from "@spindle/base";
import type { BlockDriver, DescriptorIo, DriverDefinition, Extent, IoVector, OpenRequest } from "@spindle/block";
import {
  FaultyDriver,
  MemoryDriver,
  RecordedDriver,
  type SparseBytes,
  type Timeline,
  WrappingDriver,
  type WriteLog,
} from "@spindle/testkit";

export type Log = (line: string) => void;

/** Holds reads, or writes, up on their way to the storage, as a loaded host does. */
export class LateRequests {
  readonly #clock: Clock;
  readonly #random: SeededRandom;
  readonly #kind: "read" | "write";
  readonly #longestMs: number;

  constructor(clock: Clock, random: SeededRandom) {
    this.#clock = clock;
    this.#random = random;
    this.#kind = random.pick(["read", "read", "write"]);
    this.#longestMs = random.pick([5, 20, 100]);
  }

  *pass(what: string): Co<void> {
    if (!what.startsWith(this.#kind) || !this.#random.chance(0.2)) return;
    yield* sleep(this.#clock, this.#random.below(this.#longestMs));
  }
}

/** A file that is closed once, and then used by nobody. */
class OpenFile extends WrappingDriver {
  readonly fileDescriptor: number;
  readonly #filename: string;
  readonly #storage: SimulatedStorage;
  #closed = false;

  constructor(inner: BlockDriver, filename: string, fileDescriptor: number, storage: SimulatedStorage) {
    super(inner);
    this.#filename = filename;
    this.fileDescriptor = fileDescriptor;
    this.#storage = storage;
  }

  override read(offset: number, vector: IoVector): Co<void> {
    return this.#note(`read ${offset}+${vector.length}`, super.read(offset, vector));
  }
  override write(offset: number, vector: IoVector): Co<void> {
    return this.#note(`write ${offset}+${vector.length}`, super.write(offset, vector, {}));
  }
  override writeZeroes(offset: number, length: number): Co<void> {
    return this.#note(`zero ${offset}+${length}`, super.writeZeroes(offset, length, {}));
  }
  override discard(offset: number, length: number): Co<void> {
    return this.#note(`discard ${offset}+${length}`, super.discard(offset, length));
  }
  override flush(): Co<void> {
    return this.#note("flush", super.flush());
  }
  override blockStatus(offset: number, length: number): Co<Extent> {
    this.#checkOpen("block status");
    return super.blockStatus(offset, length);
  }
  override truncate(length: number): Co<void> {
    return this.#note(`truncate ${length}`, super.truncate(length));
  }
  override *close(): Co<void> {
    this.#checkOpen("close");
    this.#closed = true;
    yield* super.close();
  }

  *#note<T>(what: string, work: Co<T>): Co<T> {
    const { log, delays } = this.#storage;
    this.#checkOpen(what);
    if (delays !== undefined) yield* delays.pass(what);
    this.#checkOpen(what);
    log?.(`      ${this.#filename}: ${what}`);
    try {
      const result = yield* work;
      this.#checkOpen(`the end of ${what}`);
      return result;
    } catch (error) {
      if (error instanceof BlockError) log?.(`      ${this.#filename}: ${what} fails: ${error.message}`);
      throw error;
    }
  }

  #checkOpen(what: string): void {
    if (this.#closed) throw new AssertionError(`'${this.#filename}' was closed before ${what}`);
  }
}

export class SimulatedStorage implements DriverDefinition, DescriptorIo {
  readonly name = "file";
  readonly kind = "protocol";
  readonly options = { filename: "string" } as const;
  log: Log | undefined;
  delays: LateRequests | undefined;
  readonly #contents: Map<string, SparseBytes> = new Map();
  readonly #open: OpenFile[] = [];
  readonly #faulty: FaultyDriver[] = [];
  #recorded: { readonly filename: string; readonly timeline: Timeline } | undefined;
  #writeLog: WriteLog | undefined;

  put(filename: string, content: SparseBytes): void {
    this.#contents.set(filename, content);
  }

  content(filename: string): SparseBytes {
    const content = this.#contents.get(filename);
    if (content === undefined) throw new BlockError("ENOENT", `there is no file '${filename}'`);
    return content;
  }

  /** The same files, of which one holds something else; neither storage sees what the other writes to that one. */
  with(filename: string, content: SparseBytes): SimulatedStorage {
    const storage = new SimulatedStorage();
    for (const [name, bytes] of this.#contents) storage.put(name, name === filename ? content.clone() : bytes);
    return storage;
  }

  /** Logs what reaches a file from when it is opened next. */
  record(filename: string, timeline: Timeline): void {
    this.#recorded = { filename, timeline };
  }

  get writeLog(): WriteLog {
    if (this.#writeLog === undefined) throw new AssertionError("nothing was recorded");
    return this.#writeLog;
  }

  /** The drivers that can be told to fail, in the order in which their files were opened. */
  get faulty(): readonly FaultyDriver[] {
    return this.#faulty;
  }

  *open(request: OpenRequest): Co<BlockDriver> {
    const filename = String(request.options["filename"]);
    const faulty = new FaultyDriver(this.#driver(filename));
    this.#faulty.push(faulty);
    const file = new OpenFile(faulty, filename, this.#open.length, this);
    this.#open.push(file);
    return file;
  }

  read(descriptor: number, offset: number, vector: IoVector): Co<void> {
    return (this.#open[descriptor] as OpenFile).read(offset, vector);
  }

  write(descriptor: number, offset: number, vector: IoVector): Co<void> {
    return (this.#open[descriptor] as OpenFile).write(offset, vector);
  }

  #driver(filename: string): MemoryDriver {
    const content = this.content(filename);
    const options = { name: "file", identity: filename };
    if (this.#recorded?.filename !== filename) return new MemoryDriver(content, options);
    const recorded = new RecordedDriver(content, this.#recorded.timeline, options);
    this.#recorded = undefined;
    this.#writeLog = recorded.log;
    return recorded;
  }
}
