/**
 * Messages of the vhost-user protocol as bytes, for both sides: a header, and payloads of fixed shapes. All numbers are
 * little-endian. What does not have the right size is refused here, before anybody looks at it.
 */
import { BlockError, ByteView } from "@spindle/base";
import type { InflightDescription } from "./inflight-region.ts";

export const VhostRequest = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
} as const;

/** What the back end says first, over the socket that SET_BACKEND_REQ_FD hands it. */
export const VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2;

/** In the device's feature bits, low word. */
export const VHOST_USER_F_PROTOCOL_FEATURES: number = 2 ** 30;

export const VHOST_USER_PROTOCOL_F_MQ: number = 2 ** 0;
export const VHOST_USER_PROTOCOL_F_REPLY_ACK: number = 2 ** 3;
export const VHOST_USER_PROTOCOL_F_BACKEND_REQ: number = 2 ** 5;
export const VHOST_USER_PROTOCOL_F_CONFIG: number = 2 ** 9;
export const VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD: number = 2 ** 12;

export const HEADER_BYTES = 12;
/** The largest payload of any message that is known here has 268 bytes. */
export const PAYLOAD_BYTES_MAX = 4096;
/** Descriptors of one message: one for each memory region. */
export const DESCRIPTORS_MAX = 8;
/** Without the protocol feature for more. */
export const REGIONS_MAX = 8;
export const CONFIG_BYTES_MAX = 256;

const FLAG_VERSION_MASK = 3;
const FLAG_VERSION_1 = 1;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;

/** In the number that comes with a descriptor of a queue. */
const VRING_INDEX_MASK = 0xff;
const VRING_NO_DESCRIPTOR = 0x100;

export interface MessageHeader {
  readonly request: number;
  readonly isReply: boolean;
  readonly needsReply: boolean;
  /** Bytes of the payload. */
  readonly length: number;
}

/** @throws {BlockError} EINVAL for a version or a length that is not spoken here. */
export function decodeHeader(bytes: Uint8Array): MessageHeader {
  const view = new ByteView(bytes);
  const flags = view.u32le(4);
  const length = view.u32le(8);
  if ((flags & FLAG_VERSION_MASK) !== FLAG_VERSION_1)
    throw new BlockError("EINVAL", `a message of version ${flags & FLAG_VERSION_MASK}`);
  if (length > PAYLOAD_BYTES_MAX) throw new BlockError("EINVAL", `a message of ${length} bytes`);
  return {
    request: view.u32le(0),
    isReply: (flags & FLAG_REPLY) !== 0,
    needsReply: (flags & FLAG_NEED_REPLY) !== 0,
    length,
  };
}

/** A whole message. */
export function encodeMessage(
  request: number,
  payload: Uint8Array,
  kind: { readonly reply?: boolean; readonly needReply?: boolean } = {},
): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new ByteView(bytes);
  view.setU32le(0, request);
  view.setU32le(4, FLAG_VERSION_1 + (kind.reply ? FLAG_REPLY : 0) + (kind.needReply ? FLAG_NEED_REPLY : 0));
  view.setU32le(8, payload.length);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** A number of 64 bits as two words, because feature bits are no number. */
export interface Bits64 {
  readonly low: number;
  readonly high: number;
}

export function decodeBits(payload: Uint8Array): Bits64 {
  const view = sized(payload, 8);
  return { low: view.u32le(0), high: view.u32le(4) };
}

export function encodeBits({ low, high }: Bits64): Uint8Array {
  const bytes = new Uint8Array(8);
  const view = new ByteView(bytes);
  view.setU32le(0, low);
  view.setU32le(4, high);
  return bytes;
}

export interface VringState {
  readonly index: number;
  readonly value: number;
}

export function decodeVringState(payload: Uint8Array): VringState {
  const { low: index, high: value } = decodeBits(payload);
  return { index, value };
}

export function encodeVringState({ index, value }: VringState): Uint8Array {
  return encodeBits({ low: index, high: value });
}

/** Addresses of the front end's own address space. */
export interface VringAddresses {
  readonly index: number;
  readonly descriptors: number;
  readonly used: number;
  readonly available: number;
}

const ADDRESSES: Fields<"descriptors" | "used" | "available"> = [
  ["descriptors", 8, "the descriptors' address"],
  ["used", 16, "the used ring's address"],
  ["available", 24, "the available ring's address"],
];

/** @throws {BlockError} EINVAL also for addresses above 2^53 - 1. */
export function decodeVringAddresses(payload: Uint8Array): VringAddresses {
  const view = sized(payload, 40);
  // The flags say whether used buffers are logged at the last address, for a protocol feature that is not offered.
  return { index: view.u32le(0), ...readFields(view, 0, ADDRESSES) };
}

export function encodeVringAddresses(addresses: VringAddresses): Uint8Array {
  const bytes = new Uint8Array(40);
  const view = new ByteView(bytes);
  view.setU32le(0, addresses.index);
  writeFields(view, 0, ADDRESSES, addresses);
  return bytes;
}

/** Which queue a descriptor is for, and whether one comes with the message. */
export interface VringDescriptor {
  readonly index: number;
  readonly given: boolean;
}

export function decodeVringDescriptor(payload: Uint8Array): VringDescriptor {
  const { low, high } = decodeBits(payload);
  const known = VRING_INDEX_MASK | VRING_NO_DESCRIPTOR;
  if (high !== 0 || (low & ~known) !== 0) throw new BlockError("EINVAL", "a queue's descriptor with unknown flags");
  return { index: low & VRING_INDEX_MASK, given: (low & VRING_NO_DESCRIPTOR) === 0 };
}

export function encodeVringDescriptor({ index, given }: VringDescriptor): Uint8Array {
  return encodeBits({ low: index + (given ? 0 : VRING_NO_DESCRIPTOR), high: 0 });
}

/** A piece of guest memory: where it is for the guest, for the front end, and in the file that comes with the message. */
export interface MemoryRegion {
  readonly guestAddress: number;
  readonly length: number;
  readonly userAddress: number;
  readonly fileOffset: number;
}

const REGION_BYTES = 32;
const REGION: Fields<keyof MemoryRegion> = [
  ["guestAddress", 0, "a region's guest address"],
  ["length", 8, "a region's length"],
  ["userAddress", 16, "a region's user address"],
  ["fileOffset", 24, "a region's file offset"],
];

/** @throws {BlockError} EINVAL also for more than 8 regions and for numbers above 2^53 - 1. */
export function decodeMemoryTable(payload: Uint8Array): MemoryRegion[] {
  if (payload.length < 8) throw new BlockError("EINVAL", "a memory table without a head");
  const count = new ByteView(payload).u32le(0);
  if (count > REGIONS_MAX) throw new BlockError("EINVAL", `a memory table of ${count} regions`);
  const view = sized(payload, 8 + REGION_BYTES * count);
  return Array.from({ length: count }, (_, index) => readFields(view, 8 + REGION_BYTES * index, REGION));
}

export function encodeMemoryTable(regions: readonly MemoryRegion[]): Uint8Array {
  const bytes = new Uint8Array(8 + REGION_BYTES * regions.length);
  const view = new ByteView(bytes);
  view.setU32le(0, regions.length);
  regions.forEach((region, index) => {
    writeFields(view, 8 + REGION_BYTES * index, REGION, region);
  });
  return bytes;
}

/** A piece of the configuration space. */
export interface ConfigPiece {
  readonly offset: number;
  readonly flags: number;
  readonly bytes: Uint8Array;
}

export function decodeConfig(payload: Uint8Array): ConfigPiece {
  if (payload.length < 12) throw new BlockError("EINVAL", "a piece of configuration without a head");
  const head = new ByteView(payload);
  const length = head.u32le(4);
  if (length > CONFIG_BYTES_MAX) throw new BlockError("EINVAL", `a piece of configuration of ${length} bytes`);
  sized(payload, 12 + length);
  return { offset: head.u32le(0), flags: head.u32le(8), bytes: payload.slice(12) };
}

export function encodeConfig({ offset, flags, bytes }: ConfigPiece): Uint8Array {
  const payload = new Uint8Array(12 + bytes.length);
  const view = new ByteView(payload);
  view.setU32le(0, offset);
  view.setU32le(4, bytes.length);
  view.setU32le(8, flags);
  payload.set(bytes, 12);
  return payload;
}

/** Bytes of the description of requests in flight; front ends may add padding, and expect it back. */
const INFLIGHT_BYTES = 20;
const INFLIGHT_PADDED_BYTES = 24;

const INFLIGHT: Fields<"length" | "offset"> = [
  ["length", 0, "the length of the memory for requests in flight"],
  ["offset", 8, "the offset of the memory for requests in flight"],
];

export function decodeInflight(payload: Uint8Array): InflightDescription {
  const view = sized(payload, payload.length === INFLIGHT_PADDED_BYTES ? INFLIGHT_PADDED_BYTES : INFLIGHT_BYTES);
  return { ...readFields(view, 0, INFLIGHT), queues: view.u16le(16), size: view.u16le(18) };
}

/** @param bytes of the payload: as many as the other side uses */
export function encodeInflight(description: InflightDescription, bytes: number = INFLIGHT_PADDED_BYTES): Uint8Array {
  const payload = new Uint8Array(bytes);
  const view = new ByteView(payload);
  writeFields(view, 0, INFLIGHT, description);
  view.setU16le(16, description.queues);
  view.setU16le(18, description.size);
  return payload;
}

export function requireEmpty(payload: Uint8Array): void {
  sized(payload, 0);
}

/** Numbers of 64 bits: the key of each, where it stands, and what a number is called that is too large. */
type Fields<K extends string> = readonly (readonly [key: K, offset: number, what: string])[];

function readFields<K extends string>(view: ByteView, at: number, fields: Fields<K>): Record<K, number> {
  const entries = fields.map(([key, offset, what]) => [key, view.u64le(at + offset, what)]);
  return Object.fromEntries(entries) as Record<K, number>;
}

function writeFields<K extends string>(
  view: ByteView,
  at: number,
  fields: Fields<K>,
  values: Readonly<Record<K, number>>,
): void {
  for (const [key, offset] of fields) view.setU64le(at + offset, values[key]);
}

function sized(payload: Uint8Array, length: number): ByteView {
  if (payload.length !== length)
    throw new BlockError("EINVAL", `a payload of ${payload.length} bytes in place of ${length}`);
  return new ByteView(payload);
}
