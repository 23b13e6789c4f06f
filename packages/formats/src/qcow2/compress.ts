/**
 * Compressed clusters. Their data begins at any byte and fills part of a number of sectors; what follows it in the last
 * sector is not part of the stream. Several share a host cluster, which is then counted once for each.
 */
import { BlockError, type Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { ImageState } from "./image-state.ts";
import type { CompressedPlace } from "./l2-entry.ts";
import { corrupt } from "./refcount.ts";
import { zstdFrameLength } from "./zstd-frame.ts";

export class CompressedReader {
  readonly #state: ImageState;
  /** The cluster that was inflated last: small reads tend to follow each other through one cluster. */
  #last: { readonly hostOffset: number; readonly cluster: Uint8Array } | undefined;
  #forgotten = 0;

  constructor(state: ImageState) {
    this.#state = state;
  }

  /** Forgets what it knows: some compressed cluster was given up, and its place may be used for another. */
  forget(): void {
    this.#last = undefined;
    this.#forgotten += 1;
  }

  /** Reads the vector's bytes from `inCluster` on in the cluster that stands, compressed, at `place`. */
  *read(place: CompressedPlace, inCluster: number, vector: IoVector): Co<void> {
    let last = this.#last;
    if (last?.hostOffset !== place.hostOffset) {
      const forgotten = this.#forgotten;
      last = { hostOffset: place.hostOffset, cluster: yield* this.#inflate(place) };
      // It may have been given up while it was read: right for this request, and not for later ones.
      if (forgotten === this.#forgotten) this.#last = last;
    }
    vector.copyFrom(last.cluster.subarray(inCluster, inCluster + vector.length));
  }

  *#inflate({ hostOffset, length }: CompressedPlace): Co<Uint8Array> {
    const { file, clusterSize, environment, header } = this.#state;
    const present = Math.min(length, file.length - hostOffset);
    if (present <= 0) throw corrupt(`a compressed cluster stands beyond the end of the image file, at ${hostOffset}`);
    const input = new Uint8Array(present);
    yield* file.read(hostOffset, IoVector.of(input));
    const output = new Uint8Array(clusterSize);
    if (header.compression === "zstd")
      environment.codecs.decompressZstd(input.subarray(0, zstdFrameLength(input)), output);
    else environment.codecs.inflateRaw(input, output);
    return output;
  }
}

export class CompressedWriter {
  readonly #state: ImageState;
  /** Room behind the data that was written last: a host cluster that is not full. */
  #room: { offset: number; end: number } | undefined;

  constructor(state: ImageState) {
    this.#state = state;
  }

  /** Leaves the room unused: some compressed cluster was given up, and with it perhaps the host cluster of the room. */
  forget(): void {
    this.#room = undefined;
  }

  /**
   * Compresses a whole cluster and writes it where there is room.
   * @returns where it stands, or undefined when it does not get smaller and nothing was written
   * @throws {BlockError} ENOTSUP for images whose clusters are compressed with zstd.
   */
  *write(cluster: Uint8Array): Co<CompressedPlace | undefined> {
    const { environment, header, clusterSize, file } = this.#state;
    if (header.compression !== "zlib")
      throw new BlockError("ENOTSUP", "writing zstd-compressed clusters is not supported");
    const data = environment.codecs.deflateRaw(cluster);
    if (data.length >= clusterSize) return undefined;
    const hostOffset = yield* this.#reserve(data.length);
    yield* file.write(hostOffset, IoVector.of(data));
    return { hostOffset, length: data.length };
  }

  /** Takes bytes from the cluster that is not full, or from a new one. */
  *#reserve(length: number): Co<number> {
    const { allocator, clusterSize } = this.#state;
    const room = this.#room;
    if (room !== undefined && room.end - room.offset >= length) {
      const hostOffset = room.offset;
      room.offset += length;
      // A narrow count may be full.
      if (yield* allocator.increment(Math.floor(hostOffset / clusterSize))) return hostOffset;
    }
    const { index } = yield* allocator.allocate(1);
    const hostOffset = index * clusterSize;
    this.#room = { offset: hostOffset + length, end: hostOffset + clusterSize };
    return hostOffset;
  }
}
