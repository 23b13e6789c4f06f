/**
 * The other side of the socket, for tests and benches: what a virtual machine does to use a disk. It shares a file in
 * memory as the guest's, sets the queues up, and hands out the driver's side of each.
 */
import { readSync } from "node:fs";
import { alignUp, BlockError, ByteView, type Co, SECTOR_SIZE, SyncRunner } from "@spindle/base";
import { sharingCalls } from "@spindle/host-node";
import { ThreadTable } from "@spindle/shared-memory";
import {
  createVirtioBlk,
  DeviceState,
  type FeatureBits,
  type GuestHandle,
  GuestMemory,
  GuestQueue,
  type GuestQueuePlan,
  planGuest,
  type Registers,
  VIRTIO_MMIO_QUEUE_NOTIFY,
} from "@spindle/virtio-blk";
import { INFLIGHT_ENTRY_BYTES, INFLIGHT_HEADER_BYTES } from "../inflight-log.ts";
import type { InflightDescription } from "../inflight-region.ts";
import {
  decodeBits,
  decodeConfig,
  decodeInflight,
  decodeVringState,
  encodeBits,
  encodeConfig,
  encodeInflight,
  encodeMemoryTable,
  encodeVringAddresses,
  encodeVringDescriptor,
  encodeVringState,
  VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  VHOST_USER_PROTOCOL_F_CONFIG,
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  VHOST_USER_PROTOCOL_F_MQ,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VhostRequest,
} from "../message.ts";
import { MessageSocket } from "../message-socket.ts";
import { PollWaiter } from "../poll-waiter.ts";

/** Where the guest's memory begins in the address space that a front end tells: any place does. */
const USER_BASE = 0x7000_0000_0000;

const CONFIG_BYTES = 60;

const VIRTIO_F_RING_PACKED_HIGH = 4;

/** What this side knows of the protocol. */
const PROTOCOL_FEATURES: number =
  VHOST_USER_PROTOCOL_F_MQ |
  VHOST_USER_PROTOCOL_F_REPLY_ACK |
  VHOST_USER_PROTOCOL_F_BACKEND_REQ |
  VHOST_USER_PROTOCOL_F_CONFIG |
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
/** Where a packed ring begins: both wrap counters are 1. */
const PACKED_BASE = 0x8000_8000;

export interface FrontEndOptions {
  readonly queues?: number;
  /** Entries of each queue; 128 when left out. */
  readonly queueSize?: number;
  /** Bytes of the largest read or write; 65536 when left out. */
  readonly dataBytes?: number;
  /** Feature bits 0 to 31 that the driver does without. */
  readonly refused?: number;
  /** Takes packed rings. */
  readonly packed?: boolean;
  /** Features of the protocol that this side does without. */
  readonly refusedProtocol?: number;
}

interface QueueDescriptors {
  readonly kick: number;
  readonly call: number;
  readonly error: number;
}

export class FrontEnd implements Disposable {
  readonly features: FeatureBits;
  configuration: Uint8Array;
  readonly plans: readonly GuestQueuePlan[];
  readonly memoryDescriptor: number;
  readonly memoryLength: number;
  readonly queueDescriptors: readonly QueueDescriptors[];
  /** Runs the requests of all queues on this thread. */
  readonly runner: SyncRunner;
  readonly #path: string;
  readonly #options: FrontEndOptions;
  #socket: MessageSocket;
  #protocolFeatures = 0;
  /** This end of the socket over which the back end speaks first. */
  #channel: number | undefined;
  /** What the back end logs requests in flight in, over its restarts. */
  #inflight: { readonly descriptor: number; readonly description: InflightDescription } | undefined;
  readonly #address: number;
  readonly #guest: GuestHandle;
  readonly #thread: ReturnType<ThreadTable["attach"]>;
  readonly #event: number;
  #closed = false;

  /**
   * Connects and brings the device up.
   * @throws {BlockError} when the back end refuses something or goes away.
   */
  constructor(path: string, options: FrontEndOptions = {}) {
    const { queues = 1, queueSize = 128, dataBytes = 65_536, packed = false } = options;
    const calls = sharingCalls();
    this.#path = path;
    this.#options = options;
    this.#socket = new MessageSocket(calls.connect(path));
    const plan = planGuest({ queueCount: queues, queueSize, dataBytes });
    this.plans = plan.queues;
    this.memoryLength = plan.length;
    this.memoryDescriptor = calls.createMemoryFile("guest", plan.length);
    this.#address = calls.map(this.memoryDescriptor, 0, plan.length);
    this.queueDescriptors = plan.queues.map(() => ({
      kick: calls.createEvent(),
      call: calls.createEvent(),
      error: calls.createEvent(),
    }));
    this.features = this.#negotiate();
    this.configuration = this.readConfiguration(0, CONFIG_BYTES);
    const threads = ThreadTable.create();
    this.#thread = new ThreadTable(threads, (fd) => calls.signal(fd)).attach();
    this.#event = calls.createEvent();
    const waiter = new PollWaiter(this.#thread, this.#event);
    waiter.descriptors = this.queueDescriptors.map(({ call }) => call);
    this.runner = new SyncRunner(performance, waiter);
    const region = { guestBase: 0, memory: calls.view(this.#address, plan.length), byteOffset: 0, length: plan.length };
    const device = createVirtioBlk({
      memory: { regions: [region] },
      threads,
      diskLength: this.capacity,
      queueCount: queues,
      queueSizeMax: queueSize,
    });
    this.#guest = { device, features: this.features, queues: plan.queues };
    // This side's own idea of the device: it runs, with what was negotiated.
    new DeviceState({ ...device, offered: this.features }).adoptFeatures(this.features);
    const keepsInflight = (this.#protocolFeatures & VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) !== 0;
    if (keepsInflight && !packed) this.#inflight = this.#askForInflight(queues, queueSize);
    this.#start(() => (packed ? PACKED_BASE : 0));
  }

  get socket(): MessageSocket {
    return this.#socket;
  }

  /** Requests that the back end has noted as in flight. */
  get inflight(): number {
    if (this.#inflight === undefined) return 0;
    const { descriptor, description } = this.#inflight;
    const bytes = new Uint8Array(description.length);
    readSync(descriptor, bytes, 0, bytes.length, 0);
    const part = alignUp(INFLIGHT_HEADER_BYTES + INFLIGHT_ENTRY_BYTES * description.size, 64);
    let count = 0;
    for (let queue = 0; queue < description.queues; queue++)
      for (let entry = 0; entry < description.size; entry++)
        count += bytes[queue * part + INFLIGHT_HEADER_BYTES + entry * INFLIGHT_ENTRY_BYTES] as number;
    return count;
  }

  /** Connects to a back end that has come again: the guest's memory, its split rings and what was in flight are as before. */
  reconnect(): void {
    this.#socket.close();
    this.#socket = new MessageSocket(sharingCalls().connect(this.#path));
    this.#negotiate();
    const memory = new GuestMemory(this.#guest.device.memory);
    this.#start(({ layout }) => memory.window(layout.deviceAddress, 4)?.u16(2) ?? 0);
  }

  #start(baseOf: (plan: GuestQueuePlan) => number): void {
    if (this.#inflight !== undefined) {
      const { descriptor, description } = this.#inflight;
      this.order(VhostRequest.SET_INFLIGHT_FD, encodeInflight(description), [descriptor]);
    }
    this.shareMemory();
    for (const plan of this.plans) this.startQueue(plan.index, baseOf(plan));
  }

  #askForInflight(queues: number, size: number) {
    const asked = encodeInflight({ length: 0, offset: 0, queues, size });
    this.#socket.send(VhostRequest.GET_INFLIGHT_FD, asked);
    const reply = this.#socket.receive();
    const descriptor = reply?.descriptors[0];
    if (reply === undefined || descriptor === undefined)
      throw new BlockError("EIO", "no memory for requests in flight");
    return { descriptor, description: decodeInflight(reply.payload) };
  }

  /** Bytes of the disk. */
  get capacity(): number {
    return new ByteView(this.configuration).u64le(0, "the capacity") * SECTOR_SIZE;
  }

  /** The driver's side of a queue. With `interrupts`, `runner` sleeps until requests end; otherwise it is polled. */
  queue(index: number, interrupts = true): GuestQueue {
    const registers: Registers = {
      read: () => 0,
      write: (offset, value) => {
        const kicked = offset === VIRTIO_MMIO_QUEUE_NOTIFY ? this.queueDescriptors[value] : undefined;
        if (kicked !== undefined) sharingCalls().signal(kicked.kick);
      },
    };
    return new GuestQueue(this.#guest, index, interrupts ? this.#thread : undefined, registers);
  }

  /** Runs a request while this thread's event loop goes on. Ends with the request's error. */
  async request<T>(co: Co<T>): Promise<T> {
    let outcome: { readonly error: unknown; readonly value: T | undefined } | undefined;
    this.runner.spawn(co, (error, value?: T) => {
      outcome = { error, value };
    });
    for (;;) {
      if (this.#closed) throw new BlockError("ECANCELED", "the front end has hung up");
      this.runner.poll();
      if (outcome === undefined) await new Promise((resolve) => setImmediate(resolve));
      else if (outcome.error === undefined) return outcome.value as T;
      else throw outcome.error;
    }
  }

  /** Sleeps until the back end interrupts, or for `timeoutMs`. Look at what the queues have used before. */
  awaitInterrupt(timeoutMs: number): void {
    const events = this.queueDescriptors.map(({ call }) => call);
    sharingCalls().poll(events, timeoutMs);
    for (const event of events) sharingCalls().drain(event);
  }

  readConfiguration(offset: number, length: number): Uint8Array {
    const piece = encodeConfig({ offset, flags: 0, bytes: new Uint8Array(length) });
    return decodeConfig(this.ask(VhostRequest.GET_CONFIG, piece)).bytes;
  }

  /** Waits until the back end says that the configuration has changed, and reads it again. @returns false when it does not. */
  awaitConfiguration(timeoutMs: number): boolean {
    const channel = this.#channel;
    if (channel === undefined || sharingCalls().poll([channel], timeoutMs) === 0) return false;
    if (new MessageSocket(channel).receive()?.request !== VHOST_USER_BACKEND_CONFIG_CHANGE_MSG)
      throw new BlockError("EIO", "the back end says what is not known here");
    this.configuration = this.readConfiguration(0, CONFIG_BYTES);
    return true;
  }

  /** Shares the guest's memory. */
  shareMemory(): void {
    const region = { guestAddress: 0, length: this.memoryLength, userAddress: USER_BASE, fileOffset: 0 };
    this.order(VhostRequest.SET_MEM_TABLE, encodeMemoryTable([region]), [this.memoryDescriptor]);
  }

  /** Sets a queue up and lets it run. */
  startQueue(index: number, base: number): void {
    const { layout } = this.plans[index] as GuestQueuePlan;
    const { kick, call, error } = this.queueDescriptors[index] as QueueDescriptors;
    this.order(VhostRequest.SET_VRING_NUM, encodeVringState({ index, value: layout.size }));
    this.order(VhostRequest.SET_VRING_BASE, encodeVringState({ index, value: base }));
    const addresses = {
      index,
      descriptors: USER_BASE + layout.descriptorAddress,
      used: USER_BASE + layout.deviceAddress,
      available: USER_BASE + layout.driverAddress,
    };
    this.order(VhostRequest.SET_VRING_ADDR, encodeVringAddresses(addresses));
    const given = encodeVringDescriptor({ index, given: true });
    this.order(VhostRequest.SET_VRING_ERR, given, [error]);
    this.order(VhostRequest.SET_VRING_CALL, given, [call]);
    this.order(VhostRequest.SET_VRING_KICK, given, [kick]);
    this.order(VhostRequest.SET_VRING_ENABLE, encodeVringState({ index, value: 1 }));
  }

  /** Stops a queue when nothing of it is in flight. @returns where it goes on. */
  stopQueue(index: number): number {
    return decodeVringState(this.ask(VhostRequest.GET_VRING_BASE, encodeVringState({ index, value: 0 }))).value;
  }

  /** Sends a message and waits for its reply. @throws {BlockError} EIO when the back end goes away. */
  ask(request: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
    this.#socket.send(request, payload);
    const reply = this.#socket.receive();
    if (reply?.request !== request || !reply.isReply) throw new BlockError("EIO", `no reply to request ${request}`);
    return reply.payload;
  }

  /**
   * Sends a message and waits until it is done, where the back end says so.
   * @throws {BlockError} EINVAL when it is refused.
   */
  order(request: number, payload: Uint8Array, descriptors: readonly number[] = []): void {
    if ((this.#protocolFeatures & VHOST_USER_PROTOCOL_F_REPLY_ACK) === 0) {
      this.#socket.send(request, payload, { descriptors });
      return;
    }
    this.#socket.send(request, payload, { needReply: true, descriptors });
    const reply = this.#socket.receive();
    if (reply?.request !== request) throw new BlockError("EIO", `no acknowledgement of request ${request}`);
    if (decodeBits(reply.payload).low !== 0) throw new BlockError("EINVAL", `request ${request} was refused`);
  }

  /** Hangs up. */
  [Symbol.dispose](): void {
    this.#closed = true;
    this.#socket.close();
    if (this.#channel !== undefined) sharingCalls().close(this.#channel);
    if (this.#inflight !== undefined) sharingCalls().close(this.#inflight.descriptor);
    for (const { kick, call, error } of this.queueDescriptors)
      for (const fd of [kick, call, error]) sharingCalls().close(fd);
    sharingCalls().close(this.memoryDescriptor);
    sharingCalls().close(this.#event);
    sharingCalls().unmap(this.#address, this.memoryLength);
  }

  #openChannel(): void {
    const [own, other] = sharingCalls().socketPair();
    if (this.#channel !== undefined) sharingCalls().close(this.#channel);
    this.#channel = own;
    try {
      this.order(VhostRequest.SET_BACKEND_REQ_FD, new Uint8Array(0), [other]);
    } finally {
      sharingCalls().close(other);
    }
  }

  #negotiate(): FeatureBits {
    const { refused = 0, refusedProtocol = 0, packed = false } = this.#options;
    const offered = decodeBits(this.ask(VhostRequest.GET_FEATURES));
    if ((offered.low & VHOST_USER_F_PROTOCOL_FEATURES) === 0)
      throw new BlockError("ENOTSUP", "the back end has no protocol features");
    const protocol = decodeBits(this.ask(VhostRequest.GET_PROTOCOL_FEATURES));
    this.#protocolFeatures = (protocol.low & PROTOCOL_FEATURES & ~refusedProtocol) >>> 0;
    this.#socket.send(VhostRequest.SET_PROTOCOL_FEATURES, encodeBits({ low: this.#protocolFeatures, high: 0 }));
    this.#socket.send(VhostRequest.SET_OWNER, new Uint8Array(0));
    if ((this.#protocolFeatures & VHOST_USER_PROTOCOL_F_BACKEND_REQ) !== 0) this.#openChannel();
    const low = (offered.low & ~refused) >>> 0;
    const high = packed ? offered.high : offered.high & ~VIRTIO_F_RING_PACKED_HIGH;
    this.order(VhostRequest.SET_FEATURES, encodeBits({ low, high }));
    return { low: (low & ~VHOST_USER_F_PROTOCOL_FEATURES) >>> 0, high };
  }
}
