/**
 * One front end's conversation: what each message does to the device. It knows no sockets; it is given messages, and
 * descriptors that are its own from then on, and says what is to be replied.
 */
import { fstatSync } from "node:fs";
import { BlockError, isPowerOfTwo } from "@spindle/base";
import { sharingCalls } from "@spindle/host-node";
import { type DeviceState, ringFeatures } from "@spindle/virtio-blk";
import { InflightRegion, inflightBytes } from "./inflight-region.ts";
import { MemoryTable } from "./memory-table.ts";
import {
  decodeBits,
  decodeConfig,
  decodeInflight,
  decodeMemoryTable,
  decodeVringAddresses,
  decodeVringDescriptor,
  decodeVringState,
  encodeBits,
  encodeConfig,
  encodeInflight,
  encodeVringState,
  requireEmpty,
  VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  VHOST_USER_PROTOCOL_F_CONFIG,
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  VHOST_USER_PROTOCOL_F_MQ,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VhostRequest,
} from "./message.ts";
import { MessageSocket } from "./message-socket.ts";
import { requireEvent, type Vring } from "./vring.ts";

const PROTOCOL_FEATURES: number =
  VHOST_USER_PROTOCOL_F_MQ |
  VHOST_USER_PROTOCOL_F_REPLY_ACK |
  VHOST_USER_PROTOCOL_F_BACKEND_REQ |
  VHOST_USER_PROTOCOL_F_CONFIG |
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;

/** What it takes to hear that the configuration has changed. */
const CONFIG_CHANGES: number = VHOST_USER_PROTOCOL_F_BACKEND_REQ | VHOST_USER_PROTOCOL_F_CONFIG;

/** A message of a front end, whole. */
export interface FrontEndMessage {
  readonly request: number;
  readonly needsReply: boolean;
  readonly payload: Uint8Array;
  readonly descriptors: readonly number[];
}

/** A message's own reply. The descriptors are the receiver's to send and to close. */
export interface Reply {
  readonly payload: Uint8Array;
  readonly descriptors?: readonly number[];
}

/** Without a reply of its own a message is only answered with whether it was done. */
type Answer = Reply | undefined;

type Handler = (payload: Uint8Array, descriptors: readonly number[]) => Answer;

export class BackendSession {
  readonly #state: DeviceState;
  readonly #vrings: readonly Vring[];
  readonly #handlers: ReadonlyMap<number, Handler>;
  #memory: MemoryTable | undefined;
  #inflight: InflightRegion | undefined;
  #protocolFeatures = 0;
  /** Over which this side may speak first. */
  #channel: MessageSocket | undefined;
  /** The generation of the configuration that the front end may have seen. */
  #generation: number;

  constructor(state: DeviceState, vrings: readonly Vring[]) {
    this.#state = state;
    this.#vrings = vrings;
    this.#generation = state.configGeneration;
    this.#handlers = new Map<number, Handler>([
      [VhostRequest.GET_FEATURES, (payload) => this.#getFeatures(payload)],
      [VhostRequest.SET_FEATURES, (payload) => this.#setFeatures(payload)],
      [VhostRequest.SET_OWNER, (payload) => void requireEmpty(payload)],
      [VhostRequest.RESET_OWNER, (payload) => this.#resetOwner(payload)],
      [VhostRequest.SET_MEM_TABLE, (payload, descriptors) => this.#setMemoryTable(payload, descriptors)],
      [VhostRequest.SET_VRING_NUM, (payload) => this.#setSize(payload)],
      [VhostRequest.SET_VRING_ADDR, (payload) => this.#setAddresses(payload)],
      [VhostRequest.SET_VRING_BASE, (payload) => this.#setBase(payload)],
      [VhostRequest.GET_VRING_BASE, (payload) => this.#getBase(payload)],
      [VhostRequest.SET_VRING_KICK, (payload, descriptors) => this.#setKick(payload, descriptors)],
      [
        VhostRequest.SET_VRING_CALL,
        (payload, descriptors) => this.#setEvent(payload, descriptors, (vring, fd) => vring.setCall(fd)),
      ],
      [
        VhostRequest.SET_VRING_ERR,
        (payload, descriptors) => this.#setEvent(payload, descriptors, (vring, fd) => vring.setError(fd)),
      ],
      [VhostRequest.GET_PROTOCOL_FEATURES, (payload) => this.#getProtocolFeatures(payload)],
      [VhostRequest.SET_PROTOCOL_FEATURES, (payload) => this.#setProtocolFeatures(payload)],
      [VhostRequest.GET_QUEUE_NUM, (payload) => this.#getQueueCount(payload)],
      [VhostRequest.SET_VRING_ENABLE, (payload) => this.#setEnabled(payload)],
      [VhostRequest.SET_BACKEND_REQ_FD, (payload, descriptors) => this.#setChannel(payload, descriptors)],
      [VhostRequest.GET_CONFIG, (payload) => this.#getConfig(payload)],
      [VhostRequest.SET_CONFIG, (payload) => this.#setConfig(payload)],
      [VhostRequest.GET_INFLIGHT_FD, (payload) => this.#getInflight(payload)],
      [VhostRequest.SET_INFLIGHT_FD, (payload, descriptors) => this.#setInflight(payload, descriptors)],
    ]);
  }

  /** Whether messages that ask for it are to be answered also when they have no reply of their own. */
  get acknowledges(): boolean {
    return (this.#protocolFeatures & VHOST_USER_PROTOCOL_F_REPLY_ACK) !== 0;
  }

  /**
   * Does what a message says. Its descriptors are kept or closed in any case.
   * @throws {BlockError} EINVAL for what makes no sense; nothing has changed then. ENOTSUP for an unknown request.
   */
  handle({ request, payload, descriptors }: FrontEndMessage): Answer {
    const handler = this.#handlers.get(request);
    const takes = TAKES_DESCRIPTORS.has(request);
    try {
      if (handler === undefined) throw new BlockError("ENOTSUP", `request ${request} is not known here`);
      if (!takes && descriptors.length > 0) throw new BlockError("EINVAL", `request ${request} carries descriptors`);
    } catch (error) {
      for (const fd of descriptors) sharingCalls().close(fd);
      throw error;
    }
    return handler(payload, descriptors);
  }

  /**
   * Says that the configuration space has changed since the front end was told of it last, if it has, to those who hear it.
   * @throws {BlockError} EIO when the front end does not take it.
   */
  tellConfiguration(): void {
    const hears = (this.#protocolFeatures & CONFIG_CHANGES) === CONFIG_CHANGES;
    if (!hears || this.#channel === undefined || this.#generation === this.#state.configGeneration) return;
    this.#generation = this.#state.configGeneration;
    this.#channel.send(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, new Uint8Array(0));
  }

  /** The front end is gone. Requests in flight end first. */
  close(): void {
    for (const vring of this.#vrings) vring.reset();
    this.#memory?.unmap();
    this.#memory = undefined;
    this.#inflight?.unmap();
    this.#inflight = undefined;
    this.#channel?.close();
    this.#channel = undefined;
    this.#state.beginReset();
  }

  #getFeatures(payload: Uint8Array): Answer {
    requireEmpty(payload);
    const { low, high } = this.#state.handle.offered;
    return { payload: encodeBits({ low: (low | VHOST_USER_F_PROTOCOL_FEATURES) >>> 0, high }) };
  }

  #setFeatures(payload: Uint8Array): Answer {
    const { low, high } = decodeBits(payload);
    const hasProtocolFeatures = (low & VHOST_USER_F_PROTOCOL_FEATURES) !== 0;
    const features = { low: (low & ~VHOST_USER_F_PROTOCOL_FEATURES) >>> 0, high };
    const serving = this.#stopServing();
    if (!this.#state.adoptFeatures(features)) {
      this.#start(serving);
      throw new BlockError("EINVAL", "the front end takes features that were not offered");
    }
    // Without protocol features there is no message that enables a queue.
    if (!hasProtocolFeatures) for (const vring of this.#vrings) vring.enabled = true;
    this.#start(serving);
    return undefined;
  }

  #resetOwner(payload: Uint8Array): Answer {
    requireEmpty(payload);
    for (const vring of this.#vrings) vring.reset();
    return undefined;
  }

  #setMemoryTable(payload: Uint8Array, descriptors: readonly number[]): Answer {
    const regions = decodeOrClose(descriptors, () => decodeMemoryTable(payload));
    const table = MemoryTable.map(regions, descriptors);
    this.#stopServing();
    this.#memory?.unmap();
    this.#memory = table;
    this.#start(this.#vrings);
    return undefined;
  }

  #setSize(payload: Uint8Array): Answer {
    const { index, value } = decodeVringState(payload);
    const vring = this.#vring(index);
    if (!isPowerOfTwo(value) || value > this.#state.handle.queueSizeMax)
      throw new BlockError("EINVAL", `a virtqueue of ${value} entries`);
    this.#change(vring, () => {
      vring.size = value;
    });
    return undefined;
  }

  #setAddresses(payload: Uint8Array): Answer {
    const addresses = decodeVringAddresses(payload);
    const vring = this.#vring(addresses.index);
    this.#change(vring, () => {
      vring.addresses = addresses;
    });
    return undefined;
  }

  #setBase(payload: Uint8Array): Answer {
    const { index, value } = decodeVringState(payload);
    const vring = this.#vring(index);
    this.#change(vring, () => {
      vring.base = value;
    });
    return undefined;
  }

  /** Stops the queue until it gets another eventfd for kicks. */
  #getBase(payload: Uint8Array): Answer {
    const { index } = decodeVringState(payload);
    const vring = this.#vring(index);
    vring.stop();
    vring.setKick(undefined);
    return { payload: encodeVringState({ index, value: vring.base }) };
  }

  #setKick(payload: Uint8Array, descriptors: readonly number[]): Answer {
    return this.#setEvent(payload, descriptors, (vring, fd) => {
      if (fd === undefined) throw new BlockError("ENOTSUP", "a virtqueue without kicks");
      this.#change(vring, () => vring.setKick(fd));
    });
  }

  #setEvent(
    payload: Uint8Array,
    descriptors: readonly number[],
    set: (vring: Vring, fd: number | undefined) => void,
  ): Answer {
    const { vring, fd } = decodeOrClose(descriptors, () => {
      const { index, given } = decodeVringDescriptor(payload);
      if (descriptors.length !== (given ? 1 : 0))
        throw new BlockError("EINVAL", `${descriptors.length} descriptors for one virtqueue`);
      for (const one of descriptors) requireEvent(one);
      return { vring: this.#vring(index), fd: descriptors[0] };
    });
    set(vring, fd);
    return undefined;
  }

  #getProtocolFeatures(payload: Uint8Array): Answer {
    requireEmpty(payload);
    return { payload: encodeBits({ low: PROTOCOL_FEATURES, high: 0 }) };
  }

  #setProtocolFeatures(payload: Uint8Array): Answer {
    const { low, high } = decodeBits(payload);
    if ((low & ~PROTOCOL_FEATURES) !== 0 || high !== 0)
      throw new BlockError("EINVAL", "the front end takes protocol features that were not offered");
    this.#protocolFeatures = low;
    return undefined;
  }

  #getQueueCount(payload: Uint8Array): Answer {
    requireEmpty(payload);
    return { payload: encodeBits({ low: this.#vrings.length, high: 0 }) };
  }

  #setEnabled(payload: Uint8Array): Answer {
    const { index, value } = decodeVringState(payload);
    const vring = this.#vring(index);
    if (value > 1) throw new BlockError("EINVAL", `a virtqueue is enabled with ${value}`);
    this.#change(vring, () => {
      vring.enabled = value === 1;
    });
    return undefined;
  }

  #setChannel(payload: Uint8Array, descriptors: readonly number[]): Answer {
    const fd = decodeOrClose(descriptors, () => {
      requireEmpty(payload);
      const [one] = descriptors;
      if (one === undefined || descriptors.length !== 1 || !fstatSync(one).isSocket())
        throw new BlockError("EINVAL", "the back end's own channel is not one socket");
      return one;
    });
    this.#channel?.close();
    this.#channel = new MessageSocket(fd);
    this.tellConfiguration();
    return undefined;
  }

  #getConfig(payload: Uint8Array): Answer {
    const { offset, flags, bytes } = decodeConfig(payload);
    return { payload: encodeConfig({ offset, flags, bytes: this.#state.readConfiguration(offset, bytes.length) }) };
  }

  #setConfig(payload: Uint8Array): Answer {
    const { offset, bytes } = decodeConfig(payload);
    this.#state.writeConfiguration(offset, bytes);
    return undefined;
  }

  /** Makes memory for requests in flight, which the front end keeps. */
  #getInflight(payload: Uint8Array): Answer {
    const { queues, size } = decodeInflight(payload);
    if (queues > this.#vrings.length || size > this.#state.handle.queueSizeMax)
      throw new BlockError("EINVAL", `requests in flight of ${queues} virtqueues of ${size} entries`);
    // The places of packed rings cannot be found again: nothing is logged for them.
    if (ringFeatures(this.#state.driverFeatures).packed)
      return { payload: encodeInflight({ length: 0, offset: 0, queues, size }, payload.length) };
    const length = inflightBytes(queues, size);
    const fd = sharingCalls().createMemoryFile("spindle-inflight", length);
    const description = { length, offset: 0, queues, size };
    return { payload: encodeInflight(description, payload.length), descriptors: [fd] };
  }

  #setInflight(payload: Uint8Array, descriptors: readonly number[]): Answer {
    try {
      const description = decodeInflight(payload);
      const [fd] = descriptors;
      if (fd === undefined || descriptors.length !== 1)
        throw new BlockError("EINVAL", `${descriptors.length} files for the requests in flight`);
      const region = new InflightRegion(fd, description);
      const serving = this.#stopServing();
      this.#inflight?.unmap();
      this.#inflight = region;
      this.#start(serving);
      return undefined;
    } finally {
      for (const fd of descriptors) sharingCalls().close(fd);
    }
  }

  /** @throws {BlockError} EINVAL when there is no such queue. */
  #vring(index: number): Vring {
    const vring = this.#vrings[index];
    if (vring === undefined) throw new BlockError("EINVAL", `there is no virtqueue ${index}`);
    return vring;
  }

  /** Changes a queue while it is not being served. */
  #change(vring: Vring, change: () => void): void {
    vring.stop();
    change();
    vring.startIfReady(this.#memory, this.#inflight);
  }

  /** @returns the queues that were being served. */
  #stopServing(): readonly Vring[] {
    const serving = this.#vrings.filter((vring) => vring.serving);
    for (const vring of serving) vring.stop();
    return serving;
  }

  #start(vrings: readonly Vring[]): void {
    for (const vring of vrings) vring.startIfReady(this.#memory, this.#inflight);
  }
}

const TAKES_DESCRIPTORS: ReadonlySet<number> = new Set([
  VhostRequest.SET_MEM_TABLE,
  VhostRequest.SET_VRING_KICK,
  VhostRequest.SET_VRING_CALL,
  VhostRequest.SET_VRING_ERR,
  VhostRequest.SET_BACKEND_REQ_FD,
  VhostRequest.SET_INFLIGHT_FD,
]);

/** Closes descriptors that nobody takes when `decode` throws. */
function decodeOrClose<T>(descriptors: readonly number[], decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    for (const fd of descriptors) sharingCalls().close(fd);
    throw error;
  }
}
