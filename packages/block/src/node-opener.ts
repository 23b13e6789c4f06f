/**
 * Opens one tree of nodes for a graph: the node, its file, and the backing files that its options or the image itself
 * name. Everything that was opened on the way is closed when a step fails.
 */
import { BlockError, type Co, isBlockError } from "@spindle/base";
import type { BackingFile, BlockDriver } from "./driver.ts";
import type { Graph } from "./graph.ts";
import { IoVector } from "./io-vector.ts";
import { BlockNode, type Children } from "./node.ts";
import { cacheOptions, checkOptions, fileOption, type NodeOptionValues, type OptionRecord } from "./node-options.ts";
import type { CacheOptions, DriverDefinition, InFlightTickets } from "./registry.ts";

/** Longer chains are refused: a host may show one file under many identities. */
const CHAIN_DEPTH_MAX = 200;

/** Bytes of an image that format probing looks at. */
const PROBE_BYTES = 512;

/** For nodes without a tracker: nothing is ever in flight beside the request that asks. */
const NOTHING_IN_FLIGHT: InFlightTickets = { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY };

export interface OpenImageOptions {
  /** Found out by looking at the image when absent. */
  readonly format?: string | undefined;
  readonly readOnly?: boolean | undefined;
  /** Other programs may write the image meanwhile; only for images that are opened read-only. */
  readonly forceShare?: boolean | undefined;
  /** Past the host's page cache. */
  readonly direct?: boolean | undefined;
}

/** What is handed down while a tree is opened. */
interface Scope {
  /** The file name of the image that the user named; null until it is known. */
  readonly root: string | null;
  /** Identities of the images above in the chain. */
  readonly above: readonly string[];
  readonly depth: number;
  readonly readOnly: boolean;
  readonly forceShare: boolean;
  readonly cache: CacheOptions;
  /** The parent is the only user and orders its own requests, so that nothing need be tracked. */
  readonly inline: boolean;
  /** The format of this node was found by looking. */
  readonly probed: boolean;
  /** Nobody will read or write any disk of the tree. */
  readonly withoutData: boolean;
}

const TOP: Scope = {
  root: null,
  above: [],
  depth: 0,
  readOnly: false,
  forceShare: false,
  cache: {},
  inline: false,
  probed: false,
  withoutData: false,
};

export class NodeOpener {
  readonly #graph: Graph;

  constructor(graph: Graph) {
    this.#graph = graph;
  }

  open(options: OptionRecord, withoutData = false): Co<BlockNode> {
    return this.#open(options, { ...TOP, withoutData });
  }

  *openImage(filename: string, options: OpenImageOptions): Co<BlockNode> {
    const { format, readOnly = false, forceShare = false, direct = false } = options;
    if (format !== undefined) this.#graph.registry.get(format);
    const access = { "read-only": readOnly, "force-share": forceShare, cache: { direct } };
    const node = { ...access, file: { driver: "file", filename } };
    if (format !== undefined) return yield* this.#open({ ...node, driver: format }, { ...TOP, root: filename });
    return yield* this.openProbed(node);
  }

  /** Opens a node whose options tell no driver: its format is found by looking at its file. */
  *openProbed(options: OptionRecord, withoutData = false): Co<BlockNode> {
    const { file: child } = options;
    if (child === undefined) throw new BlockError("EINVAL", "Must specify either driver or file");
    const readOnly = options["read-only"] === true;
    const forceShare = options["force-share"] === true;
    const cache = cacheOptions(options);
    const isName = typeof child === "string";
    const file = isName
      ? this.#graph.lookup(child)
      : yield* this.#open(child as OptionRecord, { ...TOP, readOnly, forceShare, cache, inline: true });
    try {
      const driver = yield* this.#probe(file);
      const scope = { ...TOP, root: file.filename, probed: true, withoutData };
      return yield* this.#open({ ...options, driver, file: file.name }, scope);
    } catch (error) {
      if (!isName) yield* this.#graph.closeUnused(file);
      throw error;
    }
  }

  *#open(options: OptionRecord, scope: Scope): Co<BlockNode> {
    const definition = this.#definition(options);
    const values = checkOptions(definition, options);
    const name = this.#graph.claimName(values.nodeName);
    const { probed } = scope;
    const inner: Scope = {
      ...scope,
      readOnly: values.readOnly ?? scope.readOnly,
      forceShare: values.forceShare ?? scope.forceShare,
      cache: {
        direct: values.cache.direct ?? scope.cache.direct,
        noFlush: values.cache.noFlush ?? scope.cache.noFlush,
      },
      probed: false,
    };
    if (inner.forceShare && !inner.readOnly)
      throw new BlockError("EINVAL", "force-share=on can only be used with read-only images", { node: name });
    const children: Children = { file: null, backing: null };
    let driver: BlockDriver | undefined;
    try {
      if (definition.kind !== "protocol") yield* this.#openStorage(children, definition, values, inner);
      // A filter may want larger requests than its user makes, and orders those that are made larger.
      const isUntracked = inner.readOnly || (inner.inline && definition.kind !== "filter");
      const tracker = isUntracked ? null : this.#graph.createTracker();
      const { readOnly } = inner;
      const { environment } = this.#graph;
      const inFlight = tracker ?? NOTHING_IN_FLIGHT;
      driver = yield* definition.open({
        nodeName: name,
        options: values.own,
        children,
        readOnly,
        environment,
        inFlight,
        cache: inner.cache,
        withoutData: inner.withoutData,
        corrupted: (event) => this.#graph.tellCorruption(name, event),
        probe: probed ? (head) => this.#graph.registry.probe(head) : undefined,
      });
      const filename = children.file?.filename ?? (values.own["filename"] as string | undefined) ?? null;
      const filter = definition.kind === "filter";
      const { cache } = inner;
      const node = new BlockNode({ name, driver, children, readOnly, tracker, filter, filename, probed, cache });
      if (definition.supportsBacking === true) children.backing = yield* this.#openBacking(node, values, inner);
      this.#graph.adopt(node);
      return node;
    } catch (error) {
      if (driver !== undefined) yield* driver.close();
      yield* this.#releaseStorage(children);
      throw error;
    }
  }

  /** Opens the file, and the file of the data where there is one. What is there when it fails is in `children`. */
  *#openStorage(children: Children, definition: DriverDefinition, values: NodeOptionValues, scope: Scope): Co<void> {
    const file = yield* this.#openFile(definition, values, scope);
    children.file = file;
    yield* claimFile(file, definition, scope);
    const data = yield* this.#openData(definition, file, values, scope);
    if (data !== null) children.data = data;
  }

  *#releaseStorage({ file, data }: Children): Co<void> {
    if (data !== undefined) yield* this.#graph.release(data);
    if (file !== null) yield* this.#graph.release(file);
  }

  #definition(options: OptionRecord): DriverDefinition {
    const { driver } = options;
    if (driver === undefined) throw new BlockError("EINVAL", "Parameter 'driver' is missing");
    if (typeof driver !== "string")
      throw new BlockError("EINVAL", "Invalid parameter type for 'driver', expected: string");
    if (!this.#graph.registry.has(driver))
      throw new BlockError("EINVAL", `Parameter 'driver' does not accept value '${driver}'`);
    return this.#graph.registry.get(driver);
  }

  *#openFile(definition: DriverDefinition, values: NodeOptionValues, scope: Scope): Co<BlockNode> {
    const { file } = values;
    if (file === undefined) throw new BlockError("EINVAL", `Parameter '${fileOption(definition)}' is missing`);
    return yield* this.#child(file, { ...scope, inline: true });
  }

  /** A child by reference or by options, with one more user. */
  *#child(child: string | OptionRecord, scope: Scope): Co<BlockNode> {
    const node = typeof child === "string" ? this.#graph.lookup(child) : yield* this.#open(child, scope);
    node.parents += 1;
    return node;
  }

  /** The file of an image's data: the one that is told, or the one that the image names, as far as the policy allows. */
  *#openData(
    definition: DriverDefinition,
    file: BlockNode,
    { data: given }: NodeOptionValues,
    scope: Scope,
  ): Co<BlockNode | null> {
    if (definition.dataFile === undefined || given === null) return null;
    let data = given === undefined ? null : yield* this.#child(given, { ...scope, inline: true });
    try {
      const named = yield* definition.dataFile(file);
      if (named === null && data === null) return null;
      if (named === null)
        throw new BlockError("EINVAL", "'data-file' can only be set for images with an external data file");
      if (named.filename === null && data === null)
        throw new BlockError("EINVAL", "'data-file' is required for this image");
      data ??= yield* this.#openNamedData(file, named.filename as string, scope);
      yield* claimFile(data, definition, scope);
      return data;
    } catch (error) {
      if (data !== null) yield* this.#graph.release(data);
      throw error;
    }
  }

  *#openNamedData(image: BlockNode, filename: string, scope: Scope): Co<BlockNode> {
    const name = image.filename;
    if (name === null) throw new BlockError("EACCES", `node '${image.name}' has no file name to resolve it by`);
    const { backingPolicy } = this.#graph;
    const path = yield* backingPolicy.resolve(name, { filename, format: null }, scope.root ?? name, "data file");
    const data = yield* this.#child({ driver: "file", filename: path }, { ...scope, inline: true });
    try {
      if (backingPolicy.confirm !== undefined) yield* backingPolicy.confirm(path, data.driver.identity);
      return data;
    } catch (error) {
      yield* this.#graph.release(data);
      throw error;
    }
  }

  *#openBacking(node: BlockNode, values: NodeOptionValues, scope: Scope): Co<BlockNode | null> {
    const named = node.driver.backingFile ?? null;
    if (values.backing === null || (values.backing === undefined && named === null)) return null;
    const identity = node.children.file?.driver.identity;
    const above = identity === undefined ? scope.above : [...scope.above, identity];
    const inner: Scope = { ...scope, root: scope.root ?? node.filename, readOnly: true, depth: scope.depth + 1, above };
    if (inner.depth > CHAIN_DEPTH_MAX)
      throw new BlockError("EINVAL", `the backing chain is deeper than ${CHAIN_DEPTH_MAX} images`, { node: node.name });
    const given = values.backing;
    if (given === undefined) return yield* this.#openNamed(node, named as BackingFile, inner, {});
    if (typeof given === "string" || given["file"] !== undefined || named === null)
      return yield* this.#child(given, { ...inner, inline: false });
    return yield* this.#openNamed(node, named, inner, given);
  }

  /**
   * Opens the backing file that the image itself names, as far as the policy allows.
   * @param options of its node, beside its file
   */
  *#openNamed(node: BlockNode, backing: BackingFile, scope: Scope, options: OptionRecord): Co<BlockNode> {
    try {
      const image = node.filename;
      if (image === null) throw new BlockError("EACCES", `node '${node.name}' has no file name to resolve it by`);
      const filename = yield* this.#graph.backingPolicy.resolve(image, backing, scope.root ?? image);
      const file = yield* this.#open({ driver: "file", filename }, { ...scope, inline: true });
      try {
        const { backingPolicy } = this.#graph;
        if (backingPolicy.confirm !== undefined) yield* backingPolicy.confirm(filename, file.driver.identity);
        return yield* this.#openOver(file, backing, scope, options);
      } catch (error) {
        yield* this.#graph.closeUnused(file);
        throw namingFile(error, filename);
      }
    } catch (error) {
      if (!isBlockError(error) || error.message.startsWith("Could not open backing file")) throw error;
      throw new BlockError(error.code, `Could not open backing file: ${error.message}`, error.context, error);
    }
  }

  *#openOver(file: BlockNode, { format }: BackingFile, scope: Scope, options: OptionRecord): Co<BlockNode> {
    const { identity } = file.driver;
    const { filename } = file;
    if (identity !== undefined && scope.above.includes(identity))
      throw new BlockError("EINVAL", `Backing file '${filename}' creates an infinite loop.`);
    const driver = options["driver"] ?? format ?? (yield* this.#probe(file));
    // Says that it is unknown.
    if (typeof driver === "string") this.#graph.registry.get(driver);
    return yield* this.#child({ ...options, driver, file: file.name }, { ...scope, inline: false });
  }

  *#probe(file: BlockNode): Co<string> {
    const head = new Uint8Array(Math.min(PROBE_BYTES, file.length));
    yield* file.read(0, IoVector.of(head));
    return this.#graph.registry.probe(head);
  }
}

/** The images of a chain are many: the one that is at fault is named. */
function namingFile(error: unknown, filename: string): unknown {
  if (!isBlockError(error) || /^Could not open |'/.test(error.message)) return error;
  return new BlockError(error.code, `Could not open '${filename}': ${error.message}`, error.context, error);
}

/** Says what the driver above does with a file, before it looks at it. */
function claimFile(file: BlockNode, { ownsFile = false }: DriverDefinition, scope: Scope): Co<void> {
  const write = !scope.readOnly;
  return file.claim({ write, resize: write && ownsFile, exclusive: ownsFile && !scope.forceShare });
}
