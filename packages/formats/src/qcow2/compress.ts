/**
 * Reads compressed clusters. Their data begins at any byte and fills part of a number of sectors; what follows it in the
 * last sector is not part of the stream.
 */
import type { Co } from "@spindle/base";
import { IoVector } from "@spindle/block";
import type { ImageState } from "./image-state.ts";
import type { CompressedPlace } from "./l2-entry.ts";
import { corrupt } from "./refcount.ts";
import { zstdFrameLength } from "./zstd-frame.ts";

export class CompressedReader {
  readonly #state: ImageState;
  /** The cluster that was inflated last: small reads tend to follow each other through one cluster. */
  #last: { readonly hostOffset: number; readonly cluster: Uint8Array } | undefined;

  constructor(state: ImageState) {
    this.#state = state;
  }

  /** Forgets what it knows: some compressed cluster was given up, and its place may be used for another. */
  forget(): void {
    this.#last = undefined;
  }

  /** Reads the vector's bytes from `inCluster` on in the cluster that stands, compressed, at `place`. */
  *read(place: CompressedPlace, inCluster: number, vector: IoVector): Co<void> {
    let last = this.#last;
    if (last?.hostOffset !== place.hostOffset) {
      last = { hostOffset: place.hostOffset, cluster: yield* this.#inflate(place) };
      this.#last = last;
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
