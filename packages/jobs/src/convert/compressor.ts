/**
 * Between a conversion, which knows what is to be compressed, and whoever compresses it: this thread, or a pool of worker
 * threads (the package `streaming`).
 */
import { type Co, transferBytes } from "@spindle/base";
import type { Codecs } from "@spindle/block";

/** Memory for one piece, and what makes it smaller. */
export interface PieceCompressor {
  /** The piece is read into this. */
  readonly bytes: Uint8Array;
  /**
   * Compresses some of the whole clusters that `bytes` holds.
   * @param clusters their indexes
   * @returns for each its compressed form, or undefined where that is no shorter; valid until the next call
   */
  compress(clusters: readonly number[]): Co<(Uint8Array | undefined)[]>;
}

export interface Compressor {
  /** A piece of its own for each of so many coroutines. */
  pieces(count: number): PieceCompressor[];
  /** Gives up threads and memory. Nothing is being compressed. */
  close(): Co<void>;
}

export interface CompressorOptions {
  readonly kind: "zlib" | "zstd";
  readonly clusterSize: number;
  /** Whole clusters. */
  readonly pieceBytes: number;
}

/** Makes the compressor of one conversion. */
export type CreateCompressor = (options: CompressorOptions) => Co<Compressor>;

/** Compresses one cluster. @returns what is valid until the next call, or undefined when it does not get smaller. */
export function packCluster(
  codecs: Codecs,
  kind: CompressorOptions["kind"],
  cluster: Uint8Array,
): Uint8Array | undefined {
  const packed = kind === "zstd" ? codecs.compressZstd(cluster) : codecs.deflateRaw(cluster);
  return packed.length < cluster.length ? packed : undefined;
}

/** Compresses on the thread that calls. */
export function localCompressor(codecs: Codecs): CreateCompressor {
  return function* ({ kind, clusterSize, pieceBytes }) {
    const piece = (): PieceCompressor => {
      const bytes = transferBytes(pieceBytes);
      return {
        bytes,
        *compress(clusters) {
          return clusters.map((index) =>
            packCluster(codecs, kind, bytes.subarray(index * clusterSize, (index + 1) * clusterSize))?.slice(),
          );
        },
      };
    };
    return { pieces: (count) => Array.from({ length: count }, piece), *close() {} };
  };
}
