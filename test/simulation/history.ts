/**
 * One simulated history: everything that happens to one disk, drawn from one number. Guests use it, streams fill it and
 * are disturbed, storage fails, and in the end the disk is compared with the model: as the guests see it, as it is found
 * when the image is opened again, and as it would be found had the power failed at any time.
 */
import { type Co, SeededRandom, sleep } from "@spindle/base";
import { type BlockNode, chainOf, type DriverDefinition, type Graph, IoVector } from "@spindle/block";
import { qcow2Format } from "@spindle/formats";
import { type Copier, type CopierOptions, JobRegistry, LocalCopier } from "@spindle/jobs";
import { RangeLock, type Thread, ThreadTable } from "@spindle/shared-memory";
import { DurabilityModel, ObservedDisk, SimulatedRunner, Timeline } from "@spindle/testkit";
import { drawMix, Guest } from "./guest.ts";
import { ACCESS_KINDS, type AccessKind, openAccess } from "./guest-access.ts";
import {
  buildChain,
  type ChainShape,
  type ImageChain,
  imageOptions,
  openGraph,
  TOP_FILE,
  TRACKER_SLOTS,
} from "./image-chain.ts";
import { checkReopened } from "./power-cut.ts";
import { LateRequests, type Log, SimulatedStorage } from "./storage.ts";
import { armFaults } from "./storage-faults.ts";
import { StreamDriver } from "./stream-driver.ts";

/** A part of the system that is made wrong on purpose, to see whether the histories notice. */
export interface Mutant {
  readonly name: string;
  /** The histories that notice it soon. */
  readonly histories?: HistoryOptions;
  createTracker?(thread: Thread): RangeLock;
  qcow2?(format: DriverDefinition): DriverDefinition;
  createCopier?(options: CopierOptions): Copier;
  /** What the owner takes for the cache in which ports look. */
  cacheOf?(cache: NonNullable<BlockNode["mappingCache"]>): BlockNode["mappingCache"];
  /** What the stream job takes for the node. */
  jobNode?(node: BlockNode): BlockNode;
}

export interface HistoryOptions {
  /** Requests of each guest; drawn when absent. */
  readonly requests?: number;
  readonly shape?: ChainShape;
  /** Crash states that are looked at; 4 when absent. */
  readonly crashStates?: number;
  readonly faults?: boolean;
  readonly access?: AccessKind;
  readonly mutant?: Mutant;
  readonly log?: Log;
}

export interface HistoryResult {
  /** The same for the same seed. */
  readonly fingerprint: number;
  readonly access: AccessKind;
  readonly requests: number;
  readonly failedRequests: number;
  readonly jobs: number;
  readonly completedJobs: number;
  readonly crashStates: number;
  readonly virtualMs: number;
  readonly storage: SimulatedStorage;
  readonly chain: ImageChain;
  readonly model: DurabilityModel;
}

/** Tiny disks, so that guests and copies meet all the time. */
const SHAPE: ChainShape = {
  layersMax: 2,
  clusterSizes: [512, 1024, 2048, 4096, 4096, 16384],
  sectors: [24, 160],
};

/** Disks of a few clusters, on which freed clusters are used again at once. */
export const CROWDED: ChainShape = {
  layersMax: 1,
  clusterSizes: [512, 1024, 2048],
  sectors: [4, 60],
};

const CRASH_STATES = 4;

/** Runs a history. @throws {Error} with what went wrong. */
export function runHistory(seed: number, options: HistoryOptions = {}): HistoryResult {
  return new History(seed, options).run();
}

class History {
  readonly #options: HistoryOptions;
  readonly #random: SeededRandom;
  readonly #runner: SimulatedRunner;
  readonly #storage: SimulatedStorage;
  readonly #chain: ImageChain;
  readonly #model: DurabilityModel;
  readonly #graph: Graph;
  readonly #thread: Thread;
  readonly #table = ThreadTable.create();
  readonly #faulty: boolean;
  readonly #requestsEach: number;
  readonly #log: Log | undefined;
  #faultsOver = false;
  readonly #disarmers: (() => void)[] = [];
  #stamp = 100;
  #requests = 0;
  #failedRequests = 0;

  constructor(seed: number, options: HistoryOptions) {
    const random = new SeededRandom(seed ^ 0x51ed270b);
    this.#options = options;
    this.#random = random;
    const slow = random.chance(0.3);
    this.#runner = new SimulatedRunner(seed, {
      latencyMs: slow ? [0.5, 5] : [0.01, 1],
      slowChance: random.pick([0, 0.05, 0.3]),
      stallChance: random.pick([0, 0.1, 0.4]),
      stepsMax: 3_000_000,
    });
    this.#log = options.log && ((line) => options.log?.(`${this.#runner.clock.now().toFixed(3).padStart(10)} ${line}`));
    const built = new SimulatedStorage();
    const crowded = random.chance(0.12);
    this.#chain = buildChain(random, built, options.shape ?? (crowded ? CROWDED : SHAPE));
    this.#requestsEach = options.requests ?? (crowded ? 30 + random.below(50) : 5 + random.below(25));
    this.#storage = built.with(TOP_FILE, built.content(TOP_FILE));
    const timeline = new Timeline();
    this.#model = new DurabilityModel(this.#chain.content, timeline);
    this.#storage.record(TOP_FILE, timeline);
    if (random.chance(0.2)) this.#storage.delays = new LateRequests(this.#runner.clock, new SeededRandom(random.u32()));
    this.#storage.log = this.#log;
    this.#thread = new ThreadTable(this.#table).attach();
    const { mutant } = options;
    this.#graph = openGraph({
      clock: this.#runner.clock,
      random: new SeededRandom(seed),
      storage: this.#storage,
      thread: this.#thread,
      qcow2: mutant?.qcow2?.(qcow2Format) ?? qcow2Format,
      createTracker: (thread) =>
        mutant?.createTracker?.(thread) ?? new RangeLock(RangeLock.create({ slots: TRACKER_SLOTS }), thread),
    });
    this.#faulty = options.faults ?? random.chance(0.4);
  }

  run(): HistoryResult {
    const { chain } = this.#parts();
    for (const { filename, length, options } of chain.layers)
      this.#log?.(`image ${filename}: ${length} bytes, ${JSON.stringify(options)}`);
    const top = this.#runner.run(
      this.#graph.open({ ...imageOptions({ filename: TOP_FILE, format: "qcow2" }), "node-name": "top" }),
    );
    const copyOnRead = this.#random.chance(0.12);
    const node = copyOnRead
      ? this.#runner.run(this.#graph.open({ driver: "copy-on-read", "node-name": "filter", file: "top" }))
      : top;
    const access = this.#options.access ?? this.#random.pick(ACCESS_KINDS);
    this.#log?.(
      `guests use ${copyOnRead ? "copy-on-read over " : ""}the ${access}${this.#faulty ? ", storage fails" : ""}`,
    );
    const streams = this.#live(node, access);
    this.#compareAsGuest(node);
    const flattened = chainOf(top).length === 1;
    this.#runner.run(this.#graph.close(), "closing the graph");
    const crashStates = this.#judgeImages(flattened);
    return {
      fingerprint: this.#runner.fingerprint,
      access,
      requests: this.#requests,
      failedRequests: this.#failedRequests,
      jobs: streams.jobs,
      completedJobs: streams.completed,
      crashStates,
      virtualMs: this.#runner.clock.now(),
      ...this.#parts(),
    };
  }

  #parts(): { storage: SimulatedStorage; chain: ImageChain; model: DurabilityModel } {
    return { storage: this.#storage, chain: this.#chain, model: this.#model };
  }

  /** Lets guests, streams and faults run side by side to their ends. */
  #live(node: BlockNode, kind: AccessKind): StreamDriver {
    const { mutant } = this.#options;
    const random = this.#random;
    const runner = this.#runner;
    const guests = 1 + random.below(3);
    const access = openAccess({
      kind,
      node,
      guests,
      runner,
      storage: this.#storage,
      thread: this.#thread,
      table: this.#table,
    });
    if (mutant?.cacheOf !== undefined && node.mappingCache !== null)
      node.mappingCache = mutant.cacheOf(node.mappingCache);
    const jobs = new JobRegistry({ clock: runner.clock, runner });
    jobs.onEvent(({ event, data }) => this.#log?.(`job: ${event} ${JSON.stringify(data)}`));
    const createCopier = function* (options: CopierOptions): Co<Copier> {
      return mutant?.createCopier?.(options) ?? new LocalCopier(options);
    };
    const streams = new StreamDriver({
      context: { graph: this.#graph, jobs, createCopier },
      random: new SeededRandom(random.u32()),
      clock: runner.clock,
      node: mutant?.jobNode?.(node) ?? node,
      clusterSize: node.trackingUnit,
      faulty: this.#faulty,
      disarm: () => this.#disarm(),
      log: this.#log,
    });
    const coroutines = this.#guests(access.disks, node.trackingUnit);
    const running: Co<unknown>[] = [...coroutines, streams.run()];
    if (this.#faulty) running.push(this.#fail());
    runner.runAll(running, "actor");
    this.#disarm();
    runner.run(access.close(), "closing the guests' way");
    runner.drain();
    return streams;
  }

  #guests(disks: readonly ConstructorParameters<typeof ObservedDisk>[0][], clusterSize: number): Co<void>[] {
    const random = this.#random;
    const requests = this.#requestsEach;
    const mix = drawMix(random);
    const hotSpots = [random.below(this.#model.length), random.below(this.#model.length)];
    return disks
      .map((disk, index) =>
        new Guest({
          name: `guest ${index}`,
          random: new SeededRandom(random.u32()),
          disk: new ObservedDisk(disk, this.#model),
          clock: this.#runner.clock,
          requests,
          mix,
          hotSpots,
          clusterSize,
          nextStamp: () => {
            this.#stamp += 1;
            return this.#stamp;
          },
          log: this.#log,
          failed: (error, request) => {
            this.#failedRequests += 1;
            if (!this.#faulty) throw new Error(`${request} failed without a reason`, { cause: error });
          },
        }).run(),
      )
      .map((guest) => this.#counted(guest, requests));
  }

  *#counted(guest: Co<void>, requests: number): Co<void> {
    yield* guest;
    this.#requests += requests;
  }

  /** Arms faults at random times. The stream's driver ends it when it wants to see an end. */
  *#fail(): Co<void> {
    const random = new SeededRandom(this.#random.u32());
    const { clock } = this.#runner;
    for (let count = 1 + random.below(5); count > 0; count--) {
      yield* sleep(clock, random.below(100) / 20, () => this.#faultsOver);
      if (this.#faultsOver) return;
      const { disarm, description } = armFaults(random, this.#storage.faulty);
      this.#log?.(`storage: ${description}`);
      this.#disarmers.push(disarm);
      if (random.chance(0.5)) continue;
      yield* sleep(clock, random.below(200) / 20, () => this.#faultsOver);
      disarm();
    }
  }

  #disarm(): void {
    this.#faultsOver = true;
    for (const disarm of this.#disarmers) disarm();
  }

  #compareAsGuest(node: BlockNode): void {
    const bytes = new Uint8Array(node.length);
    const begun = this.#model.timeline.next();
    this.#runner.run(node.read(0, IoVector.of(bytes)), "the last look");
    const mismatch = this.#model.readMismatch(0, bytes, begun);
    if (mismatch !== undefined) throw new Error(`at the end: ${mismatch}`);
  }

  /** @returns the number of crash states that were looked at. */
  #judgeImages(flattened: boolean): number {
    return checkReopened({
      ...this.#parts(),
      random: new SeededRandom(this.#random.u32()),
      flattened,
      leaksAllowed: this.#faulty,
      crashStates: this.#options.crashStates ?? CRASH_STATES,
      log: this.#log,
    });
  }
}
