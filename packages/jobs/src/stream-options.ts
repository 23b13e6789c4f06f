/** What a user asks of `block-stream`, checked against the graph in QEMU's order and with QEMU's texts (blockdev.c). */
import { BlockError } from "@spindle/base";
import { type BackingFile, type BlockNode, backingOf, type Graph, skipFilters } from "@spindle/block";
import type { JobOptions, OnError } from "./job.ts";

/** Bounds of `chunk`, in bytes, and of `depth`: what is asked for takes memory. */
const CHUNK_BYTES_MAX = 64 * 1024 * 1024;
const DEPTH_MAX = 1024;

export interface StreamOptions extends Omit<JobOptions, "id"> {
  /** QEMU's default is the device's name; a node without a device has none, and must be given an id. */
  readonly jobId: string;
  /** The node whose image is filled; filters on it are passed by. */
  readonly node: BlockNode;
  /** What the user called `node`, for error texts; the node's name when absent. */
  readonly device?: string;
  /** Stop above the image with this file name. */
  readonly base?: string;
  /** Stop above the node with this name. */
  readonly baseNode?: string;
  /** Stop below the node with this name. */
  readonly bottom?: string;
  /** What to write into the image as its new backing file, instead of the base's own file name. */
  readonly backingFile?: string;
  /** Default `report`. */
  readonly onError?: OnError;
  /** Name for a copy-on-read node above the top that exists as long as the job does. */
  readonly filterNodeName?: string;
  /** The longest copy in bytes, 1 to 64 MiB; default 512 KiB, so that errors are told where QEMU tells them. */
  readonly chunk?: number;
  /** The most copies in flight, of each worker if there are any, 1 to 1024; found out while copying when absent. */
  readonly depth?: number;
}

/** A checked request: which nodes take part, and what is below the top afterwards. */
export interface StreamScope {
  /** The node whose image is filled, without filters. */
  readonly top: BlockNode;
  /** The nodes that may not change: from the one that the user named down to the last that is streamed from. */
  readonly frozen: readonly BlockNode[];
  /** The link at which the chain stops being looked at; null to look at all of it. */
  readonly stop: BlockNode | null;
  /** The top's next backing node. */
  readonly base: BlockNode | null;
  /** What the image will say of it. */
  readonly backingFile: BackingFile | null;
}

/** @throws {BlockError} when the request cannot be met; nothing was changed. */
export function resolveStream(graph: Graph, options: StreamOptions): StreamScope {
  checkExclusive(options);
  checkBound("chunk", options.chunk, CHUNK_BYTES_MAX);
  checkBound("depth", options.depth, DEPTH_MAX);
  const { node } = options;
  const base = resolveBase(graph, options);
  const bottom = resolveBottom(graph, options);
  const top = skipFilters(node);
  const newBacking = bottom === null ? base : nextBelow(bottom);
  const frozen = between(node, newBacking);
  for (const member of frozen) member.checkIdle();
  if (newBacking === null && options.backingFile !== undefined)
    throw new BlockError("EINVAL", "backing file specified, but streaming the entire chain");
  if (top.readOnly) throw new BlockError("EROFS", "Block node is read-only", { node: top.name });
  const stop = frozen.map((member) => member.children.backing).find((link) => holds(link, newBacking)) ?? null;
  return { top, frozen, stop, base: newBacking, backingFile: backingFileFor(newBacking, options.backingFile) };
}

function checkExclusive({ base, baseNode, bottom }: StreamOptions): void {
  const both = (first: string, second: string): BlockError =>
    new BlockError("EINVAL", `'${first}' and '${second}' cannot be specified at the same time`);
  if (base !== undefined && baseNode !== undefined) throw both("base", "base-node");
  if (base !== undefined && bottom !== undefined) throw both("base", "bottom");
  if (bottom !== undefined && baseNode !== undefined) throw both("bottom", "base-node");
}

function checkBound(name: string, value: number | undefined, most: number): void {
  if (value === undefined || (Number.isSafeInteger(value) && value >= 1 && value <= most)) return;
  throw new BlockError("EINVAL", `Parameter '${name}' expects a number from 1 to ${most}`);
}

function resolveBase(graph: Graph, options: StreamOptions): BlockNode | null {
  const { node, base, baseNode } = options;
  if (base !== undefined) {
    let above = skipFilters(node);
    for (let below = backingOf(node); below !== null; below = backingOf(above)) {
      const layer = skipFilters(below);
      // The name by which the file was opened, or the one that stands in the image above it.
      if (layer.filename === base || above.driver.backingFile?.filename === base) return layer;
      above = layer;
    }
    throw new BlockError("ENOENT", `Can't find '${base}' in the backing chain`);
  }
  if (baseNode === undefined) return null;
  const found = lookupNode(graph, baseNode);
  if (found === node || !between(node, null).includes(found))
    throw new BlockError("EINVAL", `Node '${baseNode}' is not a backing image of '${options.device ?? node.name}'`);
  return found;
}

function resolveBottom(graph: Graph, options: StreamOptions): BlockNode | null {
  const { node, bottom } = options;
  if (bottom === undefined) return null;
  const found = lookupNode(graph, bottom);
  if (found.filter) throw new BlockError("EINVAL", `Node '${bottom}' is a filter, use a non-filter node as 'bottom'`);
  if (!between(node, null).includes(found))
    throw new BlockError("EINVAL", `Node '${bottom}' is not in a chain starting from '${options.device ?? node.name}'`);
  return found;
}

function lookupNode(graph: Graph, name: string): BlockNode {
  const node = graph.node(name);
  if (node !== undefined) return node;
  throw new BlockError("ENOENT", `Cannot find device='' nor node-name='${name}'`, { node: name });
}

/** The nodes from `node` down to, and without, `end`: layers and filters. */
function between(node: BlockNode, end: BlockNode | null): BlockNode[] {
  const nodes: BlockNode[] = [];
  for (let current: BlockNode | null = node; current !== null && current !== end; current = nextBelow(current))
    nodes.push(current);
  return nodes;
}

function nextBelow(node: BlockNode): BlockNode | null {
  return node.filter ? node.children.file : node.children.backing;
}

/** Whether `base` is the node behind a link, or below filters behind it. */
function holds(link: BlockNode | null, base: BlockNode | null): boolean {
  if (link === null || base === null) return false;
  for (let node: BlockNode | null = link; node !== null; node = node.filter ? node.children.file : null)
    if (node === base) return true;
  return false;
}

function backingFileFor(base: BlockNode | null, given: string | undefined): BackingFile | null {
  if (base === null) return null;
  const layer = skipFilters(base);
  const filename = given ?? layer.filename;
  if (filename !== null) return { filename, format: layer.driver.name };
  throw new BlockError("EINVAL", `node '${base.name}' has no file name: give the new backing file's`);
}
