/**
 * Reads and writes what is encrypted in a file, by whole sectors. Nothing is decrypted in the caller's memory: a guest may
 * look at it, and write to it, meanwhile.
 */
import { alignDown, alignUp, type Co } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { CIPHER_SECTOR, type SectorCipher } from "./sector-cipher.ts";

/** A request of any length takes so much memory of its own. */
const PIECE_BYTES: number = 1024 * 1024;

/**
 * Where bytes stand in the file, and the place by which their sectors are numbered: both in bytes, and a multiple of
 * sectors apart.
 */
export interface EncryptedPlace {
  readonly offset: number;
  readonly numbered: number;
}

/** Fills a vector. What is behind the end of the file is taken for zeros, and decrypted. */
export function* readEncrypted(
  cipher: SectorCipher,
  file: BlockNode,
  place: EncryptedPlace,
  vector: IoVector,
): Co<void> {
  const head = place.numbered % CIPHER_SECTOR;
  for (let done = 0; done < vector.length; ) {
    const skip = done === 0 ? head : 0;
    const piece = vector.slice(done, Math.min(PIECE_BYTES - skip, vector.length - done));
    const sectors = yield* readSectors(cipher, file, moved(place, done - skip), skip + piece.length);
    piece.copyFrom(sectors.subarray(skip));
    done += piece.length;
  }
}

/** Writes a vector. Sectors of which it has only a part are read first: nobody else writes to them meanwhile. */
export function* writeEncrypted(
  cipher: SectorCipher,
  file: BlockNode,
  place: EncryptedPlace,
  vector: IoVector,
): Co<void> {
  const start = alignDown(place.numbered, CIPHER_SECTOR);
  const end = place.numbered + vector.length;
  const first = moved(place, start - place.numbered);
  const head = place.numbered - start;
  const tail = alignUp(end, CIPHER_SECTOR) - end;
  const before = head === 0 ? undefined : yield* readSectors(cipher, file, first, CIPHER_SECTOR);
  const last = moved(place, alignDown(end, CIPHER_SECTOR) - place.numbered);
  const after = tail === 0 ? undefined : yield* readSectors(cipher, file, last, CIPHER_SECTOR);
  const whole = [before?.subarray(0, head), ...vector.buffers, after?.subarray(CIPHER_SECTOR - tail)];
  const sectors = new IoVector(whole.filter((part) => part !== undefined));
  for (let done = 0; done < sectors.length; done += PIECE_BYTES) {
    const plain = sectors.slice(done, Math.min(PIECE_BYTES, sectors.length - done)).toBytes();
    const { offset, numbered } = moved(first, done);
    yield* file.write(offset, IoVector.of(cipher.encrypt(numbered / CIPHER_SECTOR, plain)));
  }
}

/** As many zeros, in bounded memory. */
export function zeros(length: number): IoVector {
  const piece = new Uint8Array(Math.min(length, PIECE_BYTES));
  const pieces = Math.ceil(length / PIECE_BYTES);
  return new IoVector(
    Array.from({ length: pieces }, (_, index) =>
      piece.subarray(0, Math.min(PIECE_BYTES, length - index * PIECE_BYTES)),
    ),
  );
}

/** Whole sectors, as many as reach over `length` bytes. */
function* readSectors(
  cipher: SectorCipher,
  file: BlockNode,
  { offset, numbered }: EncryptedPlace,
  length: number,
): Co<Uint8Array> {
  const bytes = new Uint8Array(alignUp(length, CIPHER_SECTOR));
  const present = Math.max(0, Math.min(bytes.length, file.length - offset));
  if (present > 0) yield* file.read(offset, IoVector.of(bytes.subarray(0, present)));
  return cipher.decrypt(numbered / CIPHER_SECTOR, bytes);
}

function moved({ offset, numbered }: EncryptedPlace, by: number): EncryptedPlace {
  return { offset: offset + by, numbered: numbered + by };
}
