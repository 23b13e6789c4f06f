/** The two ways to open an image by its name: with its backing chain, and alone. */
import { BlockError, type Co, isBlockError } from "@spindle/base";
import { type BlockNode, type Graph, IoVector, type OptionRecord } from "@spindle/block";

/** As many bytes as the graph itself looks at to find a format out. */
const PROBE_BYTES = 512;

export interface ImageName {
  readonly filename: string;
  /** Found out by looking at the first bytes when absent. */
  readonly format?: string | undefined;
  /** Options as `blockdev-add` takes them; the file name is for people only then. */
  readonly options?: OptionRecord | undefined;
  /** Reads and writes past the host's page cache, where the options do not say otherwise; its chain too. Default false. */
  readonly direct?: boolean | undefined;
}

export interface OpenImageOptions {
  /** The node's name, unless the image's options tell one; made up when absent. */
  readonly nodeName?: string;
  readonly readOnly: boolean;
  /** Other programs may write it meanwhile; only for reading. */
  readonly forceShare?: boolean | undefined;
  /** Flushes do nothing. */
  readonly noFlush?: boolean;
  /** What the image leaves to its backing file reads as zeros: no chain is opened. */
  readonly alone?: boolean;
  /** Nobody will read or write the disk: encrypted images need no key. */
  readonly withoutData?: boolean;
}

/** Opens an image and the chain below it. @throws {BlockError} that names the file. */
export function* openChain(graph: Graph, name: ImageName, options: OpenImageOptions): Co<BlockNode> {
  try {
    return yield* openNode(graph, name, options);
  } catch (error) {
    throw namingFile(error, name.filename);
  }
}

/**
 * Opens an image and nothing that it names, read-only: all that a look at an image needs that nobody trusts yet.
 * @throws {BlockError} that names the file.
 */
export function* openAlone(graph: Graph, name: ImageName, forceShare = false): Co<BlockNode> {
  return yield* openChain(graph, name, { readOnly: true, forceShare, alone: true, withoutData: true });
}

function* openNode(graph: Graph, name: ImageName, options: OpenImageOptions): Co<BlockNode> {
  const { filename, format, direct = false } = name;
  const { readOnly, forceShare = false, noFlush = false, alone, withoutData = false, nodeName } = options;
  if (format !== undefined) checkFormat(graph, format);
  const given: OptionRecord = name.options ?? { file: { driver: "file", filename } };
  const cache = { direct, "no-flush": noFlush, ...(given["cache"] as OptionRecord | undefined) };
  const told = format === undefined ? {} : { driver: format };
  const access = { "read-only": readOnly, "force-share": forceShare };
  const named = nodeName === undefined ? {} : { "node-name": nodeName };
  const node: OptionRecord = { ...named, ...access, ...told, ...given, cache };
  if (alone !== true)
    return yield* node["driver"] === undefined ? graph.openProbed(node, withoutData) : graph.open(node, withoutData);
  const driver = node["driver"] ?? (yield* probeFormat(graph, { cache, ...(node["file"] as OptionRecord) }));
  const definition = graph.registry.get(String(driver));
  const chain = definition.supportsBacking === true ? { backing: null } : {};
  const data = definition.dataFile !== undefined ? { "data-file": null } : {};
  return yield* graph.open({ ...node, driver, ...chain, ...data }, withoutData);
}

export function* probeFormat(graph: Graph, file: OptionRecord): Co<string> {
  const node = yield* graph.open({ "read-only": true, ...file });
  try {
    const head = new Uint8Array(Math.min(PROBE_BYTES, node.length));
    yield* node.read(0, IoVector.of(head));
    return graph.registry.probe(head);
  } finally {
    yield* graph.remove(node.name);
  }
}

/** Protocols and filters open no image by its file name. */
export function checkFormat(graph: Graph, format: string): void {
  if (graph.registry.get(format).kind !== "format") throw new BlockError("EINVAL", `'${format}' is no image format`);
}

export function namingFile(error: unknown, filename: string): unknown {
  if (!isBlockError(error) || error.message.startsWith("Could not open '")) return error;
  return new BlockError(error.code, `Could not open '${filename}': ${error.message}`, error.context, error);
}
