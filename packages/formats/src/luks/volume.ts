/** Opens a volume: reads its header, and unlocks its key where it is needed. */
import type { Co } from "@spindle/base";
import { type BlockNode, type Environment, IoVector } from "@spindle/block";
import { LUKS_HEADER_BYTES, type LuksHeader, parseLuksHeader } from "./header.ts";
import { type ReadVolume, unlock } from "./key-slots.ts";
import { cryptographyOf } from "./secret.ts";
import { SectorCipher } from "./sector-cipher.ts";

export interface OpenedVolume {
  readonly header: LuksHeader;
  /** Null when no password was given. */
  readonly cipher: SectorCipher | null;
}

/** Where a volume's header begins in a file. */
export interface VolumePlace {
  readonly file: BlockNode;
  readonly offset: number;
}

/** Reads a volume as if zeros followed the end of its file. */
export function volumeReader({ file, offset }: VolumePlace): ReadVolume {
  return function* read(at, length) {
    const bytes = new Uint8Array(length);
    const present = Math.max(0, Math.min(length, file.length - offset - at));
    if (present > 0) yield* file.read(offset + at, IoVector.of(bytes.subarray(0, present)));
    return bytes;
  };
}

/**
 * @param password gives it, after the header was looked at; null to leave the volume locked
 * @throws {BlockError} as `parseLuksHeader`, `password` and `unlock` do.
 */
export function* openVolume(
  place: VolumePlace,
  password: (() => Uint8Array) | null,
  environment: Environment,
): Co<OpenedVolume> {
  const read = volumeReader(place);
  const header = parseLuksHeader(yield* read(0, LUKS_HEADER_BYTES));
  if (password === null) return { header, cipher: null };
  const key = yield* unlock(header, read, password(), environment);
  return { header, cipher: new SectorCipher(cryptographyOf(environment), header.cipher, key) };
}
