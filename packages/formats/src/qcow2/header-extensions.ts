/** The extensions behind a qcow2 header (qcow2 specification, "Header extensions"): bytes to a list and back. */
import { alignUp, BlockError, type ByteView, encodeUtf8 } from "@spindle/base";
import { EXTENSION_BACKING_FORMAT, EXTENSION_DATA_FILE, EXTENSION_END } from "./header.ts";

const FEATURE_NAME_BYTES = 48;
/** An extension's type and length. */
export const PREFIX_BYTES = 8;

export interface HeaderExtension {
  readonly type: number;
  readonly data: Uint8Array;
}

export interface HeaderExtensions {
  /** In the order of the file. */
  readonly list: readonly HeaderExtension[];
  /** Where they end in the file, the end mark included. */
  readonly end: number;
  /** Old images have none: there the backing file's name ends the extensions. */
  readonly hasEndMark: boolean;
}

/**
 * @param start the length of the header in bytes
 * @param limit where the extensions must have ended
 * @throws {BlockError} EINVAL when one is longer than there is room.
 */
export function parseExtensions(view: ByteView, start: number, limit: number): HeaderExtensions {
  const list: HeaderExtension[] = [];
  let offset = start;
  while (offset + PREFIX_BYTES <= limit) {
    const type = view.u32be(offset);
    const length = view.u32be(offset + 4);
    offset += PREFIX_BYTES;
    if (type === EXTENSION_END) return { list, end: offset, hasEndMark: true };
    if (length > limit - offset) throw new BlockError("EINVAL", "qcow2 header extension is too large");
    list.push({ type, data: view.bytes.slice(offset, offset + length) });
    offset += alignUp(length, 8);
  }
  return { list, end: offset, hasEndMark: false };
}

/** Bytes that the extensions take in the file, the end mark included. */
export function extensionsLength(list: readonly HeaderExtension[]): number {
  return list.reduce((sum, { data }) => sum + PREFIX_BYTES + alignUp(data.length, 8), PREFIX_BYTES);
}

/** Writes the extensions and the end mark; the bytes there are zeros. */
export function writeExtensions(view: ByteView, start: number, list: readonly HeaderExtension[]): void {
  let offset = start;
  for (const { type, data } of list) {
    view.setU32be(offset, type);
    view.setU32be(offset + 4, data.length);
    view.bytes.set(data, offset + PREFIX_BYTES);
    offset += PREFIX_BYTES + alignUp(data.length, 8);
  }
}

export function backingFormatExtension(format: string): HeaderExtension {
  return { type: EXTENSION_BACKING_FORMAT, data: encodeUtf8(format) };
}

export function dataFileExtension(name: string): HeaderExtension {
  return { type: EXTENSION_DATA_FILE, data: encodeUtf8(name) };
}

/** As many whole names of features as fit into `room` bytes, the prefix included; undefined when none does. */
export function trimFeatureNames(extension: HeaderExtension, room: number): HeaderExtension | undefined {
  const count = Math.min(
    Math.floor((room - PREFIX_BYTES) / FEATURE_NAME_BYTES),
    Math.floor(extension.data.length / FEATURE_NAME_BYTES),
  );
  if (count <= 0) return undefined;
  return { type: extension.type, data: extension.data.subarray(0, count * FEATURE_NAME_BYTES) };
}
