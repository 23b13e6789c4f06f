/** Copies disks into new images, of whatever formats: what `qemu-img convert` does. */
import { dirname, resolve } from "node:path";
import { alignUp, BlockError, type Co, isBlockError, SECTOR_SIZE } from "@spindle/base";
import type { BlockNode, Graph, OptionRecord } from "@spindle/block";
import { type CreateCompressor, convert, localCompressor } from "@spindle/jobs";
import { bitmapsToCopy, checkKeepsBitmaps, copyBitmaps } from "./copy-bitmaps.ts";
import { createIn } from "./create-image.ts";
import { type ImageName, openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";
import { type SnapshotSelector, showSnapshot } from "./show-snapshot.ts";
import { ProgressMeter, type StreamProgress } from "./stream-progress.ts";

/** Data so long is worth the start of threads. */
const WORKERS_MIN_BYTES: number = 16 * 1024 * 1024;
const WORKERS_DEFAULT = 2;
const DEPTH_DEFAULT = 8;
const SPARSE_BYTES_DEFAULT = 4096;
const PROGRESS_INTERVAL_MS = 100;

export interface ConvertImageOptions extends ImageAccess {
  /** The target's format, such as `qcow2`. */
  readonly format: string;
  /** The format's own options for the new image, with qemu-img's keys and texts. */
  readonly options?: Readonly<Record<string, string>>;
  /**
   * The new image leaves to this backing file what the source leaves to its own. The name counts from the folder of the
   * new image; both backing files show the same, or the copy does not.
   */
  readonly backing?: { readonly filename: string; readonly format: string };
  /** The part of the sources that is copied, in bytes; all of it when absent. */
  readonly window?: { readonly start: number; readonly length: number };
  /** This internal snapshot of the source is copied instead of the disk as it is now. */
  readonly snapshot?: SnapshotSelector;
  /**
   * The persistent bitmaps of the one source are taken along. One that was left in use ends the call before anything is
   * created, unless there is somebody to tell that it was skipped.
   */
  readonly bitmaps?: { readonly skipped?: (name: string) => void };
  /** The target is there, and keeps its format and its length; what the sources do not reach stays. */
  readonly existing?: boolean;
  /** With `existing`: it reads as zeros, so that zeros need not be written. */
  readonly targetIsZero?: boolean;
  /** The clusters of the target are compressed. */
  readonly compress?: boolean;
  /** Zeros of at least so many bytes are not stored; 0 stores everything. Default 4096. */
  readonly sparseBytes?: number;
  /** Data is written in the order of the disk, so that the image is laid out in order. Default true. */
  readonly inOrder?: boolean;
  /** Reads and writes side by side; default 8. */
  readonly depth?: number;
  /** Threads that compress; 0 compresses on this thread. Default 2. */
  readonly workers?: number;
  /** Bytes per second; 0, the default, for no limit. */
  readonly speed?: number;
  /** What a flush of the target is worth: `unsafe`, the default, leaves it to the host when data reaches the disk. */
  readonly cache?: "unsafe" | "writeback" | "writethrough";
  /** Called with what cannot be read, which becomes zeros; without it the first error ends the call. */
  readonly salvage?: (sentence: string) => void;
  /** Called every now and then. */
  readonly progress?: (progress: StreamProgress) => void;
  /** The sources may be written by other programs meanwhile. */
  readonly forceShare?: boolean;
  /** Ends the call early; what was written stays. */
  readonly signal?: AbortSignal;
}

/** What was written. */
export interface ConvertedImage {
  /** Bytes of the new disk. */
  readonly size: number;
}

/**
 * Copies what one image shows, or several one behind the other, into a new image, or into one that is there.
 * @throws {BlockError} what opening the sources, creating the target and copying may throw; the signal's reason when it is
 *   aborted. A target that is not complete is left where it is.
 */
export async function convertImage(
  sources: ImageName | readonly ImageName[],
  target: string | ImageName,
  options: ConvertImageOptions,
): Promise<ConvertedImage> {
  const { signal, allowBacking = [], backing } = options;
  signal?.throwIfAborted();
  const name: ImageName = typeof target === "string" ? { filename: target, format: options.format } : target;
  // The backing file is one that the caller has named.
  const named = backing === undefined ? [] : [dirname(resolve(dirname(name.filename), backing.filename))];
  await using session = new Session({
    secrets: options.secrets,
    warn: options.warn,
    allowBacking: [...allowBacking, ...named],
  });
  const names = Array.isArray(sources) ? (sources as readonly ImageName[]) : [sources as ImageName];
  try {
    return await session.run(convertIn(session, names, name, options));
  } catch (error) {
    if (signal?.aborted === true && isBlockError(error, "ECANCELED")) throw signal.reason;
    throw error;
  }
}

function* convertIn(
  session: Session,
  names: readonly ImageName[],
  target: ImageName,
  options: ConvertImageOptions,
): Co<ConvertedImage> {
  const { graph, environment } = session;
  const { existing = false, cache = "unsafe", signal, salvage, progress } = options;
  const sources = yield* openSources(graph, names, options);
  const bitmaps = options.bitmaps === undefined ? null : bitmapsToCopy(sources, options.bitmaps.skipped);
  const whole = sources.reduce((sum, node) => sum + alignUp(node.length, SECTOR_SIZE), 0);
  const length = options.window?.length ?? whole;
  checkCompression(session, graph, options);
  const created = existing ? target : yield* createTarget(graph, target, options, length);
  const node = yield* openChain(graph, created, { readOnly: false, noFlush: cache === "unsafe" });
  if (bitmaps !== null) checkKeepsBitmaps(node);
  const backingNode = node.children.backing;
  const readsAsZeros = existing
    ? options.targetIsZero === true
    : graph.registry.get(options.format).newReadsAsAnything !== true;
  const meter = new ProgressMeter(environment.clock.now());
  const createCompressor = compressorFor(session, options, length);
  yield* convert(environment, {
    sources,
    ...(options.window === undefined ? {} : { window: options.window }),
    target: node,
    targetIsZero: backingNode === null && readsAsZeros,
    ...(backingNode === null || options.backing === undefined
      ? {}
      : { leftTo: "backing" as const, backingLength: backingNode.length }),
    ...(createCompressor === undefined ? {} : { createCompressor }),
    sparseBytes: options.sparseBytes ?? SPARSE_BYTES_DEFAULT,
    inOrder: options.inOrder ?? true,
    depth: options.depth ?? DEPTH_DEFAULT,
    speed: options.speed ?? 0,
    flags: { fua: cache === "writethrough" },
    ...(salvage === undefined ? {} : { salvage }),
    ...(progress === undefined ? {} : { progress: conflated(() => environment.clock.now(), length, meter, progress) }),
    ...(signal === undefined ? {} : { canceled: () => signal.aborted }),
  });
  if (bitmaps !== null) yield* copyBitmaps(bitmaps, sources[0]?.bitmaps ?? node.bitmaps, node.bitmaps);
  const size = node.length;
  yield* graph.remove(node.name);
  return { size };
}

function* openSources(graph: Graph, names: readonly ImageName[], options: ConvertImageOptions): Co<BlockNode[]> {
  const { forceShare, snapshot } = options;
  const sources: BlockNode[] = [];
  for (const name of names) {
    const node = yield* openChain(graph, name, { readOnly: true, forceShare });
    if (snapshot !== undefined) yield* showSnapshot(node, snapshot);
    sources.push(node);
  }
  return sources;
}

/** @returns how the new image is opened: with the key that it was made with. */
function* createTarget(graph: Graph, target: ImageName, options: ConvertImageOptions, size: number): Co<ImageName> {
  if (target.options !== undefined)
    throw new BlockError("EINVAL", "an image is created by its file name: open it as it is instead");
  const { format, options: own = {}, backing, allowBacking = [] } = options;
  const named = backing === undefined ? {} : { backing };
  // Opening the new image opens its backing file.
  yield* createIn(graph, target.filename, { format, options: own, size, allowBacking, unsafe: true, ...named });
  return withOptions(target, graph.registry.get(format).optionsToOpen?.(own));
}

/** A new image that is opened with more than its name. */
function withOptions(target: ImageName, more: OptionRecord = {}): ImageName {
  if (Object.keys(more).length === 0) return target;
  return { ...target, options: { file: { driver: "file", filename: target.filename }, ...more } };
}

/** Says what cannot be done before there is a target that has nothing in it. */
function checkCompression({ environment }: Session, graph: Graph, options: ConvertImageOptions): void {
  if (options.compress !== true) return;
  const { format, options: own = {} } = options;
  if (graph.registry.has(format) && graph.registry.get(format).supportsCompression !== true)
    throw new BlockError("ENOTSUP", "Compression not supported for this file format");
  if (Object.keys(own).some((key) => key === "encryption" || key.startsWith("encrypt.")))
    throw new BlockError("ENOTSUP", "Compression and encryption not supported at the same time");
  if (own["compression_type"] === "zstd") environment.codecs.compressZstd(new Uint8Array(1));
}

function compressorFor(session: Session, options: ConvertImageOptions, length: number): CreateCompressor | undefined {
  if (options.compress !== true) return undefined;
  const workers = options.workers ?? WORKERS_DEFAULT;
  if (workers === 0 || length < WORKERS_MIN_BYTES) return localCompressor(session.environment.codecs);
  return session.compressors(workers);
}

/** Tells somebody who does not want to hear of every piece. */
function conflated(
  now: () => number,
  size: number,
  meter: ProgressMeter,
  tell: (progress: StreamProgress) => void,
): (done: number) => void {
  let toldAt = Number.NEGATIVE_INFINITY;
  return (offset) => {
    const nowMs = now();
    if (nowMs - toldAt < PROGRESS_INTERVAL_MS && offset < size) return;
    toldAt = nowMs;
    tell(meter.look(nowMs, { offset, len: size, status: "running", ioStatus: "ok" }));
  };
}
