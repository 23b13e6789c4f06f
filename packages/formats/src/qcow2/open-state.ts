/** Reads what an open image keeps in memory: its L1 table, and when it may be written, counts and where its metadata stands. */
import { BlockError, type Co } from "@spindle/base";
import type { BlockNode, OpenRequest } from "@spindle/block";
import { Allocator } from "./allocate.ts";
import type { Encryption } from "./encryption.ts";
import type { Qcow2Header } from "./header.ts";
import { ImageState } from "./image-state.ts";
import { collectMetadata, MetadataClusters } from "./metadata-clusters.ts";
import { qcow2OpenOptions } from "./open-options.ts";
import { readPadded } from "./padded-read.ts";
import { Refcounts } from "./refcount.ts";
import { NO_SNAPSHOTS, readSnapshotMetadata } from "./snapshot-metadata.ts";

/** @throws {BlockError} EINVAL for options that cannot be, EIO when tables overlap or stand beyond the end of the file. */
export function* openState(request: OpenRequest, header: Qcow2Header, encryption: Encryption | null): Co<ImageState> {
  const { children, environment, inFlight } = request;
  const file = (): BlockNode => children.file as BlockNode;
  const l1Bytes = new Uint8Array(header.l1Entries * 8);
  // The file may end inside of its last cluster.
  if (header.l1Offset + l1Bytes.length - file().length >= 2 ** header.clusterBits)
    throw new BlockError("EINVAL", "the L1 table stands beyond the end of the image file");
  yield* readPadded(file(), header.l1Offset, l1Bytes);
  const l1 = new DataView(l1Bytes.buffer);
  // Who only reads needs no counts, and can still read what a damaged image has.
  const { readOnly } = request;
  const options = qcow2OpenOptions(request.options, header);
  const cacheBytes = options.refcountCacheBytes;
  const refcounts = readOnly ? Refcounts.none(header, file) : yield* Refcounts.open(header, file, cacheBytes);
  const snapshots = readOnly ? NO_SNAPSHOTS : yield* readSnapshotMetadata(file(), header);
  const metadata = readOnly
    ? new MetadataClusters(new Uint32Array(0))
    : collectMetadata({ header, l1, refcounts, snapshots, checks: options.checks }, file().length);
  const allocator = new Allocator(refcounts, metadata, file);
  const parts = { header, children, environment, encryption, inFlight, refcounts, allocator };
  return new ImageState({ ...parts, metadata, snapshots, l1, options });
}
