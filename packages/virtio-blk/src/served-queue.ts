/**
 * One virtqueue as its worker serves it: chains from the ring become requests, requests run as coroutines, and what is
 * done goes back in batches with one decision about the interrupt for each.
 */
import type { Runner } from "@spindle/base";
import { CompletedChains } from "./completed-chains.ts";
import { DescriptorChain } from "./descriptor-chain.ts";
import type { VirtioBlkDevice } from "./device.ts";
import type { DeviceState } from "./device-state.ts";
import { ringFeatures } from "./features.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { openVirtqueue } from "./open-virtqueue.ts";
import { QueueContext } from "./queue-context.ts";
import type { QueueFault } from "./queue-fault.ts";
import { isEnabled, type QueueState } from "./queue-state.ts";
import { type Request, RequestParser } from "./request.ts";
import { startedCoroutine } from "./started-coroutine.ts";
import { VIRTIO_BLK_S_IOERR } from "./status.ts";
import type { Virtqueue } from "./virtqueue.ts";

/** Requests that are given back together at most: the driver goes on with the first of many while the others are done. */
const GROUP = 16;

/** How the driver hears of its queue, where that is not through the state's doorbells. */
export interface DriverNotices {
  /** Used buffers are there, and the driver wants to know. */
  used(): void;
  /** The queue is broken and left alone until the driver sets it up again. */
  broken(fault: QueueFault): void;
}

export interface ServedQueueOptions {
  readonly state: DeviceState;
  readonly queue: QueueState;
  readonly memory: GuestMemory;
  readonly device: VirtioBlkDevice;
  /** Runs the requests that have to wait. */
  readonly runner: Pick<Runner, "spawn">;
  readonly notices?: DriverNotices | undefined;
  /** Opens the rings; `openVirtqueue` when left out. */
  readonly openRings?: typeof openVirtqueue | undefined;
  /** Told of what a request threw that is no BlockError. */
  readonly failed: (error: unknown) => void;
}

export class ServedQueue {
  readonly #state: DeviceState;
  readonly #queue: QueueState;
  readonly #memory: GuestMemory;
  readonly #device: VirtioBlkDevice;
  readonly #runner: Pick<Runner, "spawn">;
  readonly #notices: DriverNotices | undefined;
  readonly #openRings: typeof openVirtqueue;
  readonly #failed: (error: unknown) => void;
  readonly #parser: RequestParser;
  readonly #chain: DescriptorChain;
  #ring: Virtqueue | undefined;
  #context: QueueContext | undefined;
  /** The epoch that the ring and the requests in flight belong to; undefined before the first look. */
  #epoch: number | undefined;
  #inFlight = 0;
  #completed: CompletedChains = new CompletedChains(false);

  constructor(options: ServedQueueOptions) {
    this.#state = options.state;
    this.#queue = options.queue;
    this.#memory = options.memory;
    this.#device = options.device;
    this.#runner = options.runner;
    this.#notices = options.notices;
    this.#openRings = options.openRings ?? openVirtqueue;
    this.#failed = options.failed;
    this.#parser = new RequestParser(options.memory);
    this.#chain = new DescriptorChain(options.state.handle.queueSizeMax);
  }

  /** Whether nothing is in flight or waits to be given back. */
  get idle(): boolean {
    return this.#inFlight === 0 && this.#completed.ready === 0;
  }

  /** Whether `poll` would get something done. With `taking` false, new chains do not count. */
  hasWork(taking: boolean): boolean {
    if (this.#stale) return this.#inFlight === 0;
    if (this.#completed.ready > 0) return true;
    if (!taking || this.#state.stopped) return false;
    if (this.#ring === undefined) return this.#mayOpen();
    return this.#completed.outstanding < this.#ring.size && this.#ring.hasAvailable;
  }

  /** Gives back what is done, takes all new chains, and starts them. */
  poll(taking: boolean): void {
    if (!taking && this.#context !== undefined) this.#context.ending = true;
    this.#followEpoch();
    this.#deliver();
    if (!taking || this.#stale || this.#state.stopped) return;
    if (this.#ring === undefined && this.#mayOpen()) this.#open();
    if (this.#ring === undefined) return;
    this.#takeAll(this.#ring);
    this.#deliver();
  }

  /** Asks the driver for kicks. Look at `hasWork` afterwards, and only then sleep. */
  requestKicks(): void {
    if (this.#ring !== undefined && this.#ring.fault === undefined && !this.#stale) this.#ring.requestKicks();
  }

  /** Ends serving. Only while idle. */
  release(): void {
    this.#followEpoch();
    this.#queue.release(this.#ring?.position ?? this.#queue.position);
  }

  /** Whether the driver stopped the queue since the ring was opened: the ring is not the device's for long. */
  get #stale(): boolean {
    return this.#queue.epoch !== this.#epoch;
  }

  #mayOpen(): boolean {
    return this.#epoch !== undefined && isEnabled(this.#epoch) && this.#state.driverOk && !this.#queue.fault;
  }

  #followEpoch(): void {
    const { epoch } = this.#queue;
    if (epoch === this.#epoch || this.#inFlight > 0) return;
    this.#completed = new CompletedChains(false);
    this.#ring = undefined;
    this.#epoch = epoch;
    this.#queue.acknowledge(epoch);
    // A driver may be waiting for the end of a reset.
    this.#state.wakeDriver(this.#queue);
  }

  #open(): void {
    const features = ringFeatures(this.#state.driverFeatures);
    this.#context = new QueueContext(this.#state, this.#queue);
    this.#completed = new CompletedChains(features.inOrder);
    this.#ring = this.#openRings(this.#memory, this.#queue.layout, features, this.#queue.position);
    this.#context.resumable = this.#ring?.resumable === true;
    if (this.#ring === undefined) this.#latch("the rings are not valid guest memory");
  }

  #takeAll(ring: Virtqueue): void {
    if (ring.fault !== undefined) return;
    ring.suppressKicks();
    // The bounds keep a guest that offers chains it has not got back from piling up requests without end, and one that is
    // as quick as this thread from keeping it here.
    for (let taken = 0; taken < ring.size && this.#completed.outstanding < ring.size; taken++) {
      if (this.#state.stopped || !ring.take(this.#chain)) break;
      this.#start(ring);
      if (this.#completed.ready >= GROUP) this.#deliver();
    }
    if (ring.fault !== undefined) this.#latch(ring.fault);
  }

  #latch(fault: QueueFault): void {
    this.#state.latch(this.#queue, fault);
    this.#notices?.broken(fault);
  }

  #start(ring: Virtqueue): void {
    const parsed = this.#parser.parse(this.#chain);
    if (parsed.kind === "unanswerable") {
      ring.latch("a chain has no byte for the status");
      return;
    }
    const ticket = this.#completed.take();
    if (parsed.kind === "request") this.#run(parsed.request, ticket);
    else this.#complete(parsed.request, ticket, VIRTIO_BLK_S_IOERR);
  }

  /** Advances a request here and now; only when it has to wait does it go to the runner. */
  #run(request: Request, ticket: number): void {
    const co = this.#device.execute(request, this.#context as QueueContext);
    let step: ReturnType<typeof co.next>;
    try {
      step = co.next();
    } catch (error) {
      this.#fail(request, ticket, error);
      return;
    }
    if (step.done === true) {
      this.#end(request, ticket, step.value);
      return;
    }
    this.#inFlight += 1;
    this.#runner.spawn(startedCoroutine(co, step.value), (error, status) => {
      this.#inFlight -= 1;
      if (error === undefined) this.#end(request, ticket, status);
      else this.#fail(request, ticket, error);
      if (this.#completed.ready >= GROUP) this.#deliver();
    });
  }

  /** @param status undefined for a request that is left to whoever serves the queue next */
  #end(request: Request, ticket: number, status: number | undefined): void {
    if (status !== undefined) this.#complete(request, ticket, status);
  }

  #fail(request: Request, ticket: number, error: unknown): void {
    this.#complete(request, ticket, VIRTIO_BLK_S_IOERR);
    this.#failed(error);
  }

  #complete(request: Request, ticket: number, status: number): void {
    if (this.#stale) return;
    const length = request.complete(status, this.#device.bytesWritten(request, status));
    this.#completed.complete(ticket, request.head, length, request.slots);
  }

  #deliver(): void {
    const ring = this.#ring;
    if (ring === undefined || this.#stale || this.#completed.ready === 0) return;
    if (!this.#completed.deliver(ring)) return;
    if (this.#notices === undefined) this.#state.interrupt(this.#queue);
    else this.#notices.used();
  }
}
