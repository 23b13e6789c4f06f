/**
 * The image that the shell has open, and the requests on it. Buffers are bounded: a pattern is written from one piece of
 * memory again and again, and long reads come in pieces.
 */
import { BlockError, type Co, errnoText, until } from "@spindle/base";
import {
  type BlockNode,
  type Breakpoints,
  type Extent,
  IoVector,
  type Preallocation,
  skipFilters,
} from "@spindle/block";
import type { Session } from "spindle";
import { type ImageName, openByName } from "../image-name.ts";
import { CommandFailure } from "./io-command.ts";
import type { OpenMode } from "./open-mode.ts";
import { openSnapshot } from "./snapshot-file.ts";

const PIECE_BYTES: number = 8 * 1024 * 1024;

/** Memory from which patterns are written. */
const PATTERN_BYTES: number = 1024 * 1024;

export interface ZeroFlags {
  readonly fua: boolean;
  readonly mayUnmap: boolean;
  readonly noFallback: boolean;
}

/** Takes a piece of what was read, and where it begins. */
type SeeBytes = (bytes: Uint8Array, at: number) => void;

type ReadPiece = (at: number, piece: IoVector) => Co<void>;

export class IoImage {
  readonly name: ImageName;
  readonly mode: OpenMode;
  readonly node: BlockNode;
  readonly #session: Session;
  readonly #nodes: readonly BlockNode[];
  readonly #pending: Set<Promise<void>> = new Set();

  private constructor(session: Session, nodes: readonly BlockNode[], name: ImageName, mode: OpenMode) {
    this.#session = session;
    this.#nodes = nodes;
    this.node = nodes[0] as BlockNode;
    this.name = name;
    this.mode = mode;
  }

  /** @throws {BlockError} with QEMU's text where it has one. */
  static async open(session: Session, name: ImageName, mode: OpenMode): Promise<IoImage> {
    const nodes = await session.run(openNodes(session, name, mode));
    if (!mode.readOnly && nodes[0]?.readOnly === true) {
      for (const node of nodes) await session.run(session.graph.remove(node.name));
      throw new BlockError("EROFS", "Block node is read-only");
    }
    return new IoImage(session, nodes, name, mode);
  }

  get length(): number {
    return this.node.length;
  }

  /** Options of the image's driver that may be given anew. */
  get changeableOptions(): readonly string[] {
    return Object.keys(this.#session.graph.registry.get(this.image.driver.name).options);
  }

  /** What an option is that nobody can change while the image is open: `driver` and `node-name`, of any node. */
  lastingOption(path: string): string | undefined {
    const keys = path.split(".");
    const option = keys.pop();
    let node: BlockNode | null = this.image;
    for (const key of keys) node = key === "file" || key === "backing" ? (node?.children[key] ?? null) : null;
    return option === "driver" ? node?.driver.name : option === "node-name" ? node?.name : undefined;
  }

  /** The node of the image itself, below what the mode has put on it. */
  get image(): BlockNode {
    return skipFilters(this.node);
  }

  /** Where requests can be stopped: at the first node that knows how to, from the top. */
  get breakpoints(): Breakpoints | undefined {
    for (let node: BlockNode | null = this.node; node !== null; node = node.children.file)
      if (node.driver.breakpoints !== undefined) return node.driver.breakpoints;
    return undefined;
  }

  /** Looks again at all that waits: something was changed that is no end of a request. */
  wake(): void {
    this.#session.runner.wake();
  }

  /** Waits until a request has stopped. @throws {CommandFailure} when none ever can. */
  async waitForBreak(tag: string): Promise<void> {
    const { breakpoints } = this;
    if (breakpoints === undefined) throw new CommandFailure(`Could not wait for request: ${errnoText("ENOTSUP")}`);
    await this.#session.run(until(() => breakpoints.isSuspended(tag)));
  }

  /** Reads a range piece by piece. The buffer that `seen` gets is used again for the next one. */
  async read(offset: number, length: number, seen: SeeBytes): Promise<void> {
    this.#checkRange(offset, length);
    await this.#readPieces(offset, length, seen, (at, piece) => this.node.read(at, piece));
  }

  /** The same of a machine's state, which stands behind the disk. @throws {BlockError} ENOTSUP when there is none. */
  async readState(offset: number, length: number, seen: SeeBytes): Promise<void> {
    await this.#readPieces(offset, length, seen, (at, piece) => this.node.readMachineState(at, piece));
  }

  async #readPieces(offset: number, length: number, seen: SeeBytes, read: ReadPiece): Promise<void> {
    const buffer = new Uint8Array(Math.min(length, PIECE_BYTES));
    for (let done = 0; done < length; ) {
      const piece = buffer.subarray(0, Math.min(buffer.length, length - done));
      await this.#session.run(read(offset + done, IoVector.of(piece)));
      seen(piece, offset + done);
      done += piece.length;
    }
  }

  async write(offset: number, vector: IoVector, fua: boolean): Promise<void> {
    this.#checkRange(offset, vector.length);
    await this.#session.run(this.node.write(offset, vector, { fua: fua || this.mode.writethrough }));
  }

  /** @throws {BlockError} ENOTSUP when the image has no place for the state of a machine. */
  async writeState(offset: number, vector: IoVector): Promise<void> {
    await this.#session.run(this.node.writeMachineState(offset, vector));
    if (this.mode.writethrough) await this.flush();
  }

  /** Cluster by cluster. @throws {BlockError} EINVAL when the range cuts a cluster that does not end with the disk. */
  async writeCompressed(offset: number, vector: IoVector): Promise<void> {
    this.#checkRange(offset, vector.length);
    await this.#session.run(this.#compress(offset, vector));
  }

  async writeZeroes(offset: number, length: number, { fua, mayUnmap, noFallback }: ZeroFlags): Promise<void> {
    this.#checkRange(offset, length);
    const flags = { fua: fua || this.mode.writethrough, mayUnmap: mayUnmap && this.mode.unmap, noFallback };
    await this.#session.run(this.node.writeZeroes(offset, length, flags));
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#checkRange(offset, length);
    if (this.mode.unmap) await this.#session.run(this.node.discard(offset, length));
  }

  flush(): Promise<void> {
    return this.#session.run(this.node.flush());
  }

  truncate(length: number, preallocation: Preallocation): Promise<void> {
    return this.#session.run(this.node.truncate(length, preallocation));
  }

  /** What the image itself says of a range; a length of 0 beyond its end. */
  async status(offset: number, length: number): Promise<Pick<Extent, "allocated" | "length">> {
    const present = Math.min(length, this.length - offset);
    if (present <= 0) return { allocated: false, length: 0 };
    return await this.#session.run(this.image.blockStatus(offset, present));
  }

  /** Lets a request go on by itself. It reports its own failure. */
  start(request: Promise<void>): void {
    this.#pending.add(request);
    void request.finally(() => this.#pending.delete(request));
  }

  /** Waits for all that was started. */
  async drain(): Promise<void> {
    while (this.#pending.size > 0) await Promise.all(this.#pending);
  }

  /** Ends what was started, makes everything durable, and closes the chain. */
  async close(): Promise<void> {
    await this.drain();
    for (const node of this.#nodes) await this.#session.run(this.#session.graph.remove(node.name));
  }

  *#compress(offset: number, vector: IoVector): Co<void> {
    const { clusterSize, writeCompressed } = this.image.driver;
    if (writeCompressed === undefined) throw new BlockError("ENOTSUP", "the image cannot be compressed");
    if (offset % clusterSize !== 0) throw new BlockError("EINVAL", "a compressed write begins with a cluster");
    const end = offset + vector.length;
    if (end % clusterSize !== 0 && end !== this.length)
      throw new BlockError("EINVAL", "a compressed write ends with a cluster");
    for (let done = 0; done < vector.length; ) {
      const piece = vector.slice(done, Math.min(clusterSize, vector.length - done));
      yield* this.node.writeCompressed(offset + done, piece);
      done += piece.length;
    }
    if (this.mode.writethrough) yield* this.node.flush();
  }

  /** A request beyond the end is an error of I/O here, as it is for a guest. */
  #checkRange(offset: number, length: number): void {
    if (offset + length <= this.length) return;
    throw new BlockError("EIO", "beyond the end of the disk", { offset, length });
  }
}

/** As many bytes of one value, in bounded memory. */
export function patternVector(length: number, pattern: number): IoVector {
  return repeated(new Uint8Array(Math.min(length, PATTERN_BYTES)).fill(pattern), length);
}

/** Some bytes over and over. */
export function repeated(bytes: Uint8Array, length: number): IoVector {
  const buffers: Uint8Array[] = [];
  for (let done = 0; done < length; done += bytes.length) buffers.push(bytes.subarray(0, length - done));
  return new IoVector(buffers);
}

/** The nodes that were opened by name, the top one first. */
function* openNodes(session: Session, name: ImageName, mode: OpenMode): Co<BlockNode[]> {
  const { graph } = session;
  const { forceShare, direct } = mode;
  const nodes = [yield* openByName(graph, name, { readOnly: mode.readOnly || mode.snapshot, forceShare, direct })];
  try {
    if (mode.snapshot) nodes.unshift(yield* openSnapshot(graph, nodes[0] as BlockNode));
    if (mode.copyOnRead && nodes[0]?.readOnly === true)
      throw new BlockError("EROFS", "Can't use copy-on-read on read-only device");
    if (mode.copyOnRead)
      nodes.unshift(yield* graph.open({ driver: "copy-on-read", file: (nodes[0] as BlockNode).name }));
    return nodes;
  } catch (error) {
    for (const node of nodes) yield* graph.remove(node.name);
    throw error;
  }
}
