/** Base images whose sectors are stamped, and the check that a whole disk holds what it must. */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { type Co, SECTOR_SIZE, type SeededRandom } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { BASE_WRITER, fillStamp, ownerOf, type SectorStates, sectorWords, verifySectors } from "@spindle/workload";
import { createImage, type Session } from "spindle";

const STEP_BYTES = 1024 * 1024;

/** Writes a raw file of stamped sectors with random holes. */
export function writeStampedFile(path: string, length: number, random: SeededRandom): void {
  const file = openSync(path, "w");
  const bytes = new Uint8Array(64 * 1024);
  const words = sectorWords(bytes);
  for (let offset = 0; offset < length; offset += bytes.length) {
    bytes.fill(0);
    if (!random.chance(0.25))
      for (let at = 0; at < bytes.length; at += SECTOR_SIZE)
        fillStamp(words, at / 4, { writer: BASE_WRITER, sequence: 1, sectorIndex: (offset + at) / SECTOR_SIZE });
    writeSync(file, bytes, 0, Math.min(bytes.length, length - offset), offset);
  }
  closeSync(file);
}

/** Makes a qcow2 image with the same content, some of it compressed. */
export async function convertStampedFile(session: Session, raw: string, path: string, length: number): Promise<void> {
  await createImage(path, { format: "qcow2", size: length });
  const node = await openQcow2(session, path, "converted");
  const file = openSync(raw, "r");
  const bytes = new Uint8Array(node.trackingUnit);
  for (let offset = 0; offset < length; offset += bytes.length) {
    bytes.fill(0, readSync(file, bytes, 0, bytes.length, offset));
    const vector = IoVector.of(bytes.subarray(0, Math.min(bytes.length, length - offset)));
    const compressed = (offset / bytes.length) % 5 === 0 && vector.length === bytes.length;
    if (bytes.some((byte) => byte !== 0))
      await session.run(compressed ? node.writeCompressed(offset, vector) : node.write(offset, vector));
  }
  closeSync(file);
  await session.run(session.graph.remove("converted"));
}

export function openQcow2(session: Session, path: string, name: string): Promise<BlockNode> {
  const file = { driver: "file", filename: path };
  return session.run(session.graph.open({ driver: "qcow2", "node-name": name, file }));
}

/** Reads a file from anywhere; zeros follow its end. */
export function readFileAt(path: string): (offset: number, into: Uint8Array) => Co<void> {
  return function* (offset, into) {
    const file = openSync(path, "r");
    try {
      into.fill(0, readSync(file, into, 0, into.length, offset));
    } finally {
      closeSync(file);
    }
  };
}

export interface WholeDisk {
  readonly node: BlockNode;
  readonly states: SectorStates;
  readonly guests: number;
  /** A file with what the disk held at first. */
  readonly base: string;
}

/** Reads all of a disk. @returns what is wrong with it, in words. */
export function* wrongSectors({ node, states, guests, base }: WholeDisk): Co<string[]> {
  const wrong: string[] = [];
  for (let offset = 0; offset < node.length; offset += STEP_BYTES) {
    const buffer = new Uint8Array(Math.min(STEP_BYTES, node.length - offset));
    yield* node.read(offset, IoVector.of(buffer));
    yield* verifySectors({
      offset,
      buffer,
      states,
      writerOf: (sectorIndex) => ownerOf(sectorIndex, node.length, guests),
      readBase: readFileAt(base),
      observer: { verified: () => {}, wrong: (report) => void wrong.push(report) },
    });
  }
  return wrong;
}
