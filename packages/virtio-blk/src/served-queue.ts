/**
 * One virtqueue as its worker serves it: chains from the ring become requests, requests run as coroutines, and what is
 * done goes back in batches with one decision about the interrupt for each.
 */
import type { Runner } from "@spindle/base";
import { DescriptorChain } from "./descriptor-chain.ts";
import type { VirtioBlkDevice } from "./device.ts";
import type { DeviceState } from "./device-state.ts";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from "./features.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { isEnabled, type QueueState } from "./queue-state.ts";
import { type Request, RequestParser } from "./request.ts";
import { SplitQueue } from "./split-queue.ts";
import { startedCoroutine } from "./started-coroutine.ts";
import { VIRTIO_BLK_S_IOERR } from "./status.ts";

export interface ServedQueueOptions {
  readonly state: DeviceState;
  readonly queue: QueueState;
  readonly memory: GuestMemory;
  readonly device: VirtioBlkDevice;
  /** Runs the requests that have to wait. */
  readonly runner: Pick<Runner, "spawn">;
  /** Told of what a request threw that is no BlockError. */
  readonly failed: (error: unknown) => void;
}

export class ServedQueue {
  readonly #state: DeviceState;
  readonly #queue: QueueState;
  readonly #memory: GuestMemory;
  readonly #device: VirtioBlkDevice;
  readonly #runner: Pick<Runner, "spawn">;
  readonly #failed: (error: unknown) => void;
  readonly #parser: RequestParser;
  readonly #chain: DescriptorChain;
  #ring: SplitQueue | undefined;
  #features = 0;
  /** The epoch that the ring and the requests in flight belong to; undefined before the first look. */
  #epoch: number | undefined;
  #inFlight = 0;
  /** Heads and lengths, in turn, that are done and not yet on the used ring. */
  readonly #completed: number[] = [];

  constructor(options: ServedQueueOptions) {
    this.#state = options.state;
    this.#queue = options.queue;
    this.#memory = options.memory;
    this.#device = options.device;
    this.#runner = options.runner;
    this.#failed = options.failed;
    this.#parser = new RequestParser(options.memory);
    this.#chain = new DescriptorChain(options.state.handle.queueSizeMax);
  }

  /** Whether nothing is in flight or waits to be given back. */
  get idle(): boolean {
    return this.#inFlight === 0 && this.#completed.length === 0;
  }

  /** Whether `poll` would get something done. With `taking` false, new chains do not count. */
  hasWork(taking: boolean): boolean {
    if (this.#completed.length > 0) return true;
    if (this.#queue.epoch !== this.#epoch) return this.#inFlight === 0;
    if (!taking) return false;
    if (this.#ring === undefined) return this.#mayOpen();
    return this.#inFlight < this.#ring.size && this.#ring.hasAvailable;
  }

  /** Gives back what is done, takes all new chains, and starts them. */
  poll(taking: boolean): void {
    this.#followEpoch();
    this.#deliver();
    if (!taking || this.#stale) return;
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
    this.#completed.length = 0;
    this.#ring = undefined;
    this.#epoch = epoch;
    this.#queue.acknowledge(epoch);
    // A driver may be waiting for the end of a reset.
    this.#state.wakeDriver(this.#queue);
  }

  #open(): void {
    const { low } = this.#state.driverFeatures;
    this.#features = low;
    const features = {
      eventIndex: (low & VIRTIO_F_EVENT_IDX) !== 0,
      indirect: (low & VIRTIO_F_INDIRECT_DESC) !== 0,
    };
    this.#ring = SplitQueue.open(this.#memory, this.#queue.layout, features, this.#queue.position);
    if (this.#ring === undefined) this.#state.latch(this.#queue, "the rings are not valid guest memory");
  }

  #takeAll(ring: SplitQueue): void {
    if (ring.fault !== undefined) return;
    ring.suppressKicks();
    // The bound keeps a guest that offers chains it has not got back from piling up requests without end.
    while (this.#inFlight + this.#completed.length / 2 < ring.size && ring.take(this.#chain)) this.#start(ring);
    if (ring.fault !== undefined) this.#state.latch(this.#queue, ring.fault);
  }

  #start(ring: SplitQueue): void {
    const parsed = this.#parser.parse(this.#chain);
    if (parsed.kind === "request") this.#run(parsed.request);
    else if (parsed.kind === "malformed") this.#complete(parsed.request, VIRTIO_BLK_S_IOERR);
    else ring.latch("a chain has no byte for the status");
  }

  /** Advances a request here and now; only when it has to wait does it go to the runner. */
  #run(request: Request): void {
    const co = this.#device.execute(request, this.#features);
    let step: ReturnType<typeof co.next>;
    try {
      step = co.next();
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (step.done === true) {
      this.#complete(request, step.value);
      return;
    }
    this.#inFlight += 1;
    this.#runner.spawn(startedCoroutine(co, step.value), (error, status) => {
      this.#inFlight -= 1;
      if (status === undefined) this.#fail(request, error);
      else this.#complete(request, status);
    });
  }

  #fail(request: Request, error: unknown): void {
    this.#complete(request, VIRTIO_BLK_S_IOERR);
    this.#failed(error);
  }

  #complete(request: Request, status: number): void {
    if (this.#stale) return;
    const length = request.complete(status, this.#device.bytesWritten(request, status));
    this.#completed.push(request.head, length);
  }

  #deliver(): void {
    if (this.#completed.length === 0) return;
    const ring = this.#ring;
    if (ring !== undefined && !this.#stale) {
      for (let index = 0; index < this.#completed.length; index += 2)
        ring.put(this.#completed[index] as number, this.#completed[index + 1] as number);
      if (ring.publish()) this.#state.interrupt(this.#queue);
    }
    this.#completed.length = 0;
  }
}
