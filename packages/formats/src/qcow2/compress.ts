/**
 * Compressed clusters. Their data begins at any byte and fills part of a number of sectors; what follows it in the last
 * sector is not part of the stream. Several share a host cluster, which is then counted once for each.
 */
import { type Co, CoMutex } from "@spindle/base";
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
    yield* file.tell("read_compressed");
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
  readonly #mutex = new CoMutex();
  /** Room behind the data that was placed last: a host cluster that is not full. */
  #room: { offset: number; end: number } | undefined;

  constructor(state: ImageState) {
    this.#state = state;
  }

  /** Leaves the room unused: some compressed cluster was given up, and with it perhaps the host cluster of the room. */
  forget(): void {
    this.#room = undefined;
  }

  /**
   * The compressed form of a whole cluster, or undefined when it does not get smaller.
   * @throws {BlockError} ENOTSUP where the host cannot compress in the image's way.
   */
  compress(cluster: Uint8Array): Uint8Array | undefined {
    const { environment, header, clusterSize } = this.#state;
    const { deflateRaw, compressZstd } = environment.codecs;
    const data = header.compression === "zstd" ? compressZstd(cluster) : deflateRaw(cluster);
    return data.length < clusterSize ? data.slice() : undefined;
  }

  /**
   * Reserves places, one behind the other where there is room, and writes the data of several clusters there. What was
   * reserved is given back when it fails.
   */
  *write(clusters: readonly Uint8Array[]): Co<CompressedPlace[]> {
    const places: CompressedPlace[] = [];
    try {
      yield* this.#mutex.run(() => this.#reserveAll(clusters, places));
      for (let first = 0; first < clusters.length; ) {
        const end = runEnd(places, first);
        const vector = new IoVector(clusters.slice(first, end));
        yield* this.#state.file.tell("write_compressed");
        yield* this.#state.file.write((places[first] as CompressedPlace).hostOffset, vector);
        first = end;
      }
      return places;
    } catch (error) {
      for (const place of places) yield* this.giveBack(place);
      throw error;
    }
  }

  /** Counts a place down at which nothing points. */
  *giveBack({ hostOffset, length }: CompressedPlace): Co<void> {
    const { allocator, clusterSize } = this.#state;
    const index = Math.floor(hostOffset / clusterSize);
    yield* allocator.decrement({ index, count: Math.floor((hostOffset + length - 1) / clusterSize) - index + 1 });
    this.forget();
  }

  *#reserveAll(clusters: readonly Uint8Array[], places: CompressedPlace[]): Co<void> {
    for (const { length } of clusters) places.push({ hostOffset: yield* this.#reserve(length), length });
  }

  /** Takes bytes from the cluster that is not full; they may go on into the next one where that is free. */
  *#reserve(length: number): Co<number> {
    const { allocator, clusterSize } = this.#state;
    yield* this.#state.file.tell("cluster_alloc_bytes");
    const room = this.#room;
    if (room !== undefined && room.end - room.offset >= length) {
      const hostOffset = room.offset;
      room.offset += length;
      // A narrow count may be full.
      if (yield* allocator.increment(Math.floor(hostOffset / clusterSize))) return hostOffset;
    }
    const { index } = yield* allocator.allocate(1);
    const start = index * clusterSize;
    const left = room !== undefined && room.end === start ? room.end - room.offset : 0;
    const continues = left > 0 && left < length && (yield* allocator.increment(index - 1));
    const hostOffset = continues ? start - left : start;
    this.#room = { offset: hostOffset + length, end: start + clusterSize };
    return hostOffset;
  }
}

/** The first place, from `first` on, that does not follow the one before it without a gap. */
function runEnd(places: readonly CompressedPlace[], first: number): number {
  let end = first + 1;
  for (let last = places[first] as CompressedPlace; end < places.length; end++) {
    const next = places[end] as CompressedPlace;
    if (next.hostOffset !== last.hostOffset + last.length) break;
    last = next;
  }
  return end;
}
