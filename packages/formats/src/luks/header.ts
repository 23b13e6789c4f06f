/**
 * The LUKS header, version 1: bytes to a checked record and back, without I/O. Source: "LUKS On-Disk Format
 * Specification", version 1.2.3, sections 2.2 and 2.3; numbers are big-endian.
 */
import { BlockError, ByteView, decodeUtf8, encodeUtf8 } from "@spindle/base";
import type { HashName } from "@spindle/block";
import { type ImageCipher, parseCipher, parseHash } from "./algorithms.ts";
import { CIPHER_SECTOR } from "./sector-cipher.ts";

export const LUKS_HEADER_BYTES = 592;
export const DIGEST_BYTES = 20;
export const SALT_BYTES = 32;
/** How many stripes a key is split into; QEMU and cryptsetup know no other number. */
export const STRIPES = 4000;
export const SLOT_COUNT = 8;
/** Where the first key's stripes begin, and on which multiples the others do. */
export const KEY_MATERIAL_ALIGNMENT = 4096;

const MAGIC: readonly number[] = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe];
const VERSION = 1;
const TEXT_BYTES = 32;
const UUID_BYTES = 40;
const SLOTS = 208;
const SLOT_BYTES = 48;
const SLOT_ENABLED = 0x00ac71f3;
const SLOT_DISABLED = 0x0000dead;

export interface KeySlot {
  readonly active: boolean;
  /** PBKDF2's, for the key that encrypts the stripes. */
  readonly iterations: number;
  readonly salt: Uint8Array;
  /** Where the stripes begin, in bytes from the header on. */
  readonly keyOffset: number;
}

export interface LuksHeader {
  /** As they stand in the header, such as `aes`, `xts-plain64` and `sha256`. */
  readonly cipherName: string;
  readonly cipherMode: string;
  readonly hash: HashName;
  /** What they mean. */
  readonly cipher: ImageCipher;
  /** Where the data begins, in bytes from the header on; what is before it are header and stripes. */
  readonly payloadOffset: number;
  readonly keyBytes: number;
  /** PBKDF2 of the master key, by which it is recognised. */
  readonly digest: Uint8Array;
  readonly digestSalt: Uint8Array;
  readonly digestIterations: number;
  readonly uuid: string;
  readonly slots: readonly KeySlot[];
}

/** Whether these first bytes are those of a LUKS header, version 1. */
export function isLuks(head: Uint8Array): boolean {
  return head.length >= 8 && hasMagic(head) && new ByteView(head).u16be(MAGIC.length) === VERSION;
}

/**
 * @param bytes at least {@link LUKS_HEADER_BYTES}; zeros behind the end of a shorter file
 * @throws {BlockError} EINVAL with QEMU's text when it is no valid header, ENOTSUP for algorithms that are not here.
 */
export function parseLuksHeader(bytes: Uint8Array): LuksHeader {
  const view = new ByteView(bytes);
  if (!hasMagic(bytes)) throw invalid("Volume is not in LUKS format");
  const version = view.u16be(6);
  if (version !== VERSION) throw invalid(`LUKS version ${version} is not supported`);
  const cipherName = text(bytes, 8, "cipher name");
  const cipherMode = text(bytes, 40, "cipher mode");
  const hashSpec = text(bytes, 72, "hash spec");
  const layout = {
    payloadOffset: view.u32be(104) * CIPHER_SECTOR,
    keyBytes: view.u32be(108),
    digest: bytes.slice(112, 112 + DIGEST_BYTES),
    digestSalt: bytes.slice(132, 132 + SALT_BYTES),
    digestIterations: view.u32be(164),
  };
  if (layout.payloadOffset < KEY_MATERIAL_ALIGNMENT) throw invalid("LUKS payload is overlapping with the header");
  if (layout.digestIterations === 0) throw invalid("LUKS key iteration count is zero");
  const slots = parseSlots(view, layout);
  const cipher = parseCipher(cipherName, cipherMode, layout.keyBytes);
  const uuid = cString(bytes.subarray(168, 168 + UUID_BYTES));
  return { cipherName, cipherMode, hash: parseHash(hashSpec), cipher, uuid, slots, ...layout };
}

/** The inverse. */
export function formatLuksHeader(header: LuksHeader): Uint8Array {
  const view = new ByteView(new Uint8Array(LUKS_HEADER_BYTES));
  const { bytes } = view;
  bytes.set(MAGIC);
  view.setU16be(6, VERSION);
  bytes.set(encodeUtf8(header.cipherName), 8);
  bytes.set(encodeUtf8(header.cipherMode), 40);
  bytes.set(encodeUtf8(header.hash), 72);
  view.setU32be(104, header.payloadOffset / CIPHER_SECTOR);
  view.setU32be(108, header.keyBytes);
  bytes.set(header.digest, 112);
  bytes.set(header.digestSalt, 132);
  view.setU32be(164, header.digestIterations);
  bytes.set(encodeUtf8(header.uuid), 168);
  header.slots.forEach((slot, index) => {
    bytes.set(formatKeySlot(slot), keySlotOffset(index));
  });
  return bytes;
}

/** Where a slot stands in the header. */
export function keySlotOffset(index: number): number {
  return SLOTS + index * SLOT_BYTES;
}

/** The bytes of one slot; the first four tell whether it is active. */
export function formatKeySlot({ active, iterations, salt, keyOffset }: KeySlot): Uint8Array {
  const view = new ByteView(new Uint8Array(SLOT_BYTES));
  view.setU32be(0, active ? SLOT_ENABLED : SLOT_DISABLED);
  view.setU32be(4, iterations);
  view.bytes.set(salt, 8);
  view.setU32be(40, keyOffset / CIPHER_SECTOR);
  view.setU32be(44, STRIPES);
  return view.bytes;
}

/** Bytes of a key's stripes, in whole sectors. */
export function keyMaterialBytes(keyBytes: number): number {
  return Math.ceil((keyBytes * STRIPES) / CIPHER_SECTOR) * CIPHER_SECTOR;
}

function parseSlots(view: ByteView, layout: Pick<LuksHeader, "payloadOffset" | "keyBytes">): KeySlot[] {
  const length = keyMaterialBytes(layout.keyBytes);
  const starts = Array.from(
    { length: SLOT_COUNT },
    (_, index) => view.u32be(SLOTS + index * SLOT_BYTES + 40) * CIPHER_SECTOR,
  );
  return starts.map((keyOffset, index) => {
    const at = SLOTS + index * SLOT_BYTES;
    const state = view.u32be(at);
    const iterations = view.u32be(at + 4);
    const stripes = view.u32be(at + 44);
    if (stripes !== STRIPES) throw invalid(`Keyslot ${index} is corrupted (stripes ${stripes | 0} != ${STRIPES})`);
    if (keyOffset < KEY_MATERIAL_ALIGNMENT) throw invalid(`Keyslot ${index} is overlapping with the LUKS header`);
    if (state !== SLOT_ENABLED && state !== SLOT_DISABLED)
      throw invalid(`Keyslot ${index} state (active/disable) is corrupted`);
    const active = state === SLOT_ENABLED;
    if (active && iterations === 0) throw invalid(`Keyslot ${index} iteration count is zero`);
    if (keyOffset + length > layout.payloadOffset)
      throw invalid(`Keyslot ${index} is overlapping with the encrypted payload`);
    const other = starts.findIndex((start, later) => later > index && Math.abs(start - keyOffset) < length);
    if (other >= 0) throw invalid(`Keyslots ${index} and ${other} are overlapping in the header`);
    return { active, iterations, salt: view.bytes.slice(at + 8, at + 8 + SALT_BYTES), keyOffset };
  });
}

function hasMagic(bytes: Uint8Array): boolean {
  return MAGIC.every((byte, index) => bytes[index] === byte);
}

function text(bytes: Uint8Array, offset: number, what: string): string {
  const field = bytes.subarray(offset, offset + TEXT_BYTES);
  if (!field.includes(0)) throw invalid(`LUKS header ${what} is not NUL terminated`);
  return cString(field);
}

function cString(field: Uint8Array): string {
  const end = field.indexOf(0);
  return decodeUtf8(end < 0 ? field : field.subarray(0, end));
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
