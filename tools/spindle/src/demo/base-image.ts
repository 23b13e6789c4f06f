/**
 * The demo's own base image: a qcow2 disk of which each run of clusters holds data, zeros that were written, nothing, or
 * zlib-compressed data. Every sector that holds data is stamped.
 */
import { type Co, GiB, SECTOR_SIZE } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { BASE_WRITER, fillStamp, sectorWords } from "@spindle/workload";
import { createImage, type Session } from "spindle";

const DEMO_DISK_BYTES: number = GiB;

const CLUSTER_BYTES = 65_536;
/** Clusters of one kind that stand side by side. */
const RUN_CLUSTERS = 16;
/** The kinds, in the order in which runs take them. */
const KINDS = ["data", "data", "hole", "data", "compressed", "data", "zero", "hole"] as const;

/** Makes the image; takes some seconds. */
export async function createBaseImage(session: Session, filename: string): Promise<void> {
  await createImage(filename, { format: "qcow2", size: DEMO_DISK_BYTES });
  const options = { driver: "qcow2", "node-name": "demo-base", file: { driver: "file", filename } };
  const node = await session.run(session.graph.open(options));
  await session.run(fill(node));
  await session.run(session.graph.remove(node.name));
}

function* fill(node: BlockNode): Co<void> {
  const runBytes = RUN_CLUSTERS * CLUSTER_BYTES;
  const bytes = new Uint8Array(runBytes);
  for (let offset = 0; offset < node.length; offset += runBytes) {
    const kind = KINDS[(offset / runBytes) % KINDS.length];
    if (kind === "zero") yield* node.writeZeroes(offset, runBytes, { mayUnmap: true });
    if (kind !== "data" && kind !== "compressed") continue;
    stamp(bytes, offset);
    if (kind === "data") yield* node.write(offset, IoVector.of(bytes));
    else
      for (let at = 0; at < runBytes; at += CLUSTER_BYTES)
        yield* node.writeCompressed(offset + at, IoVector.of(bytes.subarray(at, at + CLUSTER_BYTES)));
  }
}

function stamp(bytes: Uint8Array, offset: number): void {
  const words = sectorWords(bytes);
  for (let at = 0; at < bytes.length; at += SECTOR_SIZE)
    fillStamp(words, at / 4, { writer: BASE_WRITER, sequence: 1, sectorIndex: (offset + at) / SECTOR_SIZE });
}
