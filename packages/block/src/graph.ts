/**
 * The graph of nodes by name: who uses whom, what may be removed, and closing what nobody uses any more. How a node and
 * its chain are opened stands in node-opener.ts.
 */
import { BlockError, type Co } from "@spindle/base";
import type { RangeLock } from "@spindle/shared-memory";
import type { BackingFile } from "./driver.ts";
import type { Environment } from "./environment.ts";
import type { BlockNode } from "./node.ts";
import { NodeOpener, type OpenImageOptions } from "./node-opener.ts";
import type { OptionRecord } from "./node-options.ts";
import type { CorruptionEvent, DriverRegistry } from "./registry.ts";

/** Decides which backing files an image may name. */
export interface BackingPolicy {
  /**
   * The file to open for a backing file name that was found in an image.
   * @param image the file name of the image that names it
   * @param root the file name of the image that the user named; a chain's deeper layers are judged by it too
   * @param role what the file is for the image; a backing file when absent
   * @throws {BlockError} EACCES when it may not be opened.
   */
  resolve(image: string, backing: BackingFile, root: string, role?: "data file"): Co<string>;
  /**
   * Looks again at what was opened under a name that `resolve` gave: another file may have taken its place meanwhile.
   * @param identity the identity of the driver that was opened
   * @throws {BlockError} EACCES when it may not be used.
   */
  confirm?(filename: string, identity: string | undefined): Co<void>;
}

type CorruptionListener = (nodeName: string, event: CorruptionEvent) => void;

export interface GraphOptions {
  readonly environment: Environment;
  readonly registry: DriverRegistry;
  readonly backingPolicy: BackingPolicy;
  /** Makes the tracker of a writable node. */
  readonly createTracker: () => RangeLock;
}

export class Graph {
  readonly environment: Environment;
  readonly registry: DriverRegistry;
  readonly backingPolicy: BackingPolicy;
  readonly createTracker: () => RangeLock;
  readonly #nodes: Map<string, BlockNode> = new Map();
  /** Nodes that were opened by name and stay until they are removed by name. */
  readonly #owned: Set<BlockNode> = new Set();
  readonly #corruptionListeners: Set<CorruptionListener> = new Set();
  #nextName = 0;

  constructor(options: GraphOptions) {
    this.environment = options.environment;
    this.registry = options.registry;
    this.backingPolicy = options.backingPolicy;
    this.createTracker = options.createTracker;
  }

  /** Calls the listener when an image is found corrupt, until the returned function is called. It must not throw. */
  onCorruption(listener: CorruptionListener): () => void {
    this.#corruptionListeners.add(listener);
    return () => this.#corruptionListeners.delete(listener);
  }

  /** Tells of an image that was found corrupt. */
  tellCorruption(nodeName: string, event: CorruptionEvent): void {
    for (const listener of this.#corruptionListeners) listener(nodeName, event);
  }

  /** All nodes, those opened last first, as QEMU lists them. */
  nodes(): BlockNode[] {
    return [...this.#nodes.values()].reverse();
  }

  node(name: string): BlockNode | undefined {
    return this.#nodes.get(name);
  }

  /** @throws {BlockError} ENOENT with QEMU's text when there is no such node. */
  lookup(name: string): BlockNode {
    const node = this.#nodes.get(name);
    if (node !== undefined) return node;
    throw new BlockError("ENOENT", `Cannot find device='${name}' nor node-name='${name}'`, { node: name });
  }

  /**
   * Opens a node and everything below it. Nothing stays open when it fails.
   * @param options as `blockdev-add` takes them: `driver`, `node-name`, `read-only`, `file`, `backing`, and the
   *   driver's own
   * @param withoutData nobody will read or write the disk: encrypted images need no key
   * @throws {BlockError} with QEMU's text where it has one.
   */
  *open(options: OptionRecord, withoutData = false): Co<BlockNode> {
    const node = yield* new NodeOpener(this).open(options, withoutData);
    this.#owned.add(node);
    return node;
  }

  /** The same for options that tell no driver: the format is found by looking at the `file`. */
  *openProbed(options: OptionRecord, withoutData = false): Co<BlockNode> {
    const node = yield* new NodeOpener(this).openProbed(options, withoutData);
    this.#owned.add(node);
    return node;
  }

  /** Opens an image by its file name. */
  *openImage(filename: string, options: OpenImageOptions = {}): Co<BlockNode> {
    const node = yield* new NodeOpener(this).openImage(filename, options);
    this.#owned.add(node);
    return node;
  }

  /**
   * Closes a node that was opened by name, and what only it used.
   * @throws {BlockError} ENOENT, or EBUSY when something still uses it.
   */
  *remove(name: string): Co<void> {
    const node = this.#nodes.get(name);
    const context = { node: name };
    if (node === undefined) throw new BlockError("ENOENT", `Failed to find node with node-name='${name}'`, context);
    if (!this.#owned.has(node)) throw new BlockError("EPERM", `Node ${name} is not owned by the monitor`, context);
    node.checkIdle();
    const above = this.nodes().find((other) => other.children.backing === node);
    if (above !== undefined)
      throw new BlockError("EBUSY", `Node '${name}' is busy: node is used as backing hd of '${above.name}'`, context);
    if (node.parents > 0) throw new BlockError("EBUSY", `Block device ${name} is in use`, context);
    this.#owned.delete(node);
    yield* this.closeUnused(node);
  }

  /** Closes everything, top nodes first. Goes on when a node fails to close, and throws the first error at the end. */
  *close(): Co<void> {
    let failure: { error: unknown } | undefined;
    for (const node of this.nodes()) {
      this.#owned.delete(node);
      try {
        yield* this.closeUnused(node);
      } catch (error) {
        failure ??= { error };
      }
    }
    if (failure !== undefined) throw failure.error;
  }

  /** Puts another node, or none, below `node`, and closes what nobody uses any more. The caller has drained `node`. */
  *replaceBacking(node: BlockNode, backing: BlockNode | null): Co<void> {
    const old = node.children.backing;
    if (backing !== null) backing.parents += 1;
    node.children.backing = backing;
    if (old !== null) yield* this.release(old);
  }

  /** Takes one user away from a node and closes it when it was the last. */
  *release(node: BlockNode): Co<void> {
    node.parents -= 1;
    yield* this.closeUnused(node);
  }

  /** Closes a node, and then its children, unless something still uses it or it is owned by name. */
  *closeUnused(node: BlockNode): Co<void> {
    if (node.parents > 0 || this.#owned.has(node) || !this.#nodes.delete(node.name)) return;
    const { file, backing, data } = node.children;
    try {
      yield* node.driver.close();
    } finally {
      if (data !== undefined) yield* this.release(data);
      if (file !== null) yield* this.release(file);
      if (backing !== null) yield* this.release(backing);
    }
  }

  /** Adds a node that has just been opened. */
  adopt(node: BlockNode): void {
    this.#nodes.set(node.name, node);
  }

  /**
   * The name for a new node: the one asked for, or a generated one.
   * @throws {BlockError} EEXIST when it is taken.
   */
  claimName(wanted: string | undefined): string {
    if (wanted === undefined) {
      this.#nextName += 1;
      return `#block${String(this.#nextName).padStart(3, "0")}`;
    }
    if (this.#nodes.has(wanted)) throw new BlockError("EEXIST", `Duplicate nodes with node-name='${wanted}'`);
    return wanted;
  }
}
