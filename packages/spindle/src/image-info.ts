/** What `info` tells of images, with the keys of qemu-img's JSON output (qapi ImageInfo). */
import { BlockError, type Co } from "@spindle/base";
import type { BlockNode, Graph, ImageInformation, OptionRecord } from "@spindle/block";
import { combinePath } from "./combine-path.ts";
import { type ImageName, openAlone, openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";

export interface ImageInfo extends ImageInformation {
  readonly filename: string;
  readonly format: string;
  /** Bytes of the disk. */
  readonly "virtual-size": number;
  /** The backing file as the image names it. */
  readonly "backing-filename"?: string;
  /** The same, from where this program stands. */
  readonly "full-backing-filename"?: string;
  readonly "backing-filename-format"?: string;
}

export interface ImageInfoOptions extends ImageAccess {
  /** The image's format; found out when absent. */
  readonly format?: string | undefined;
  /** Options of the image's node, as `blockdev-add` takes them; the file name is for people only then. */
  readonly options?: OptionRecord | undefined;
  /** Looks at it although another program may be writing it. */
  readonly forceShare?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * Looks at one image, and opens nothing that it names.
 * @throws {BlockError} when it cannot be opened.
 */
export async function imageInfo(filename: string, options: ImageInfoOptions = {}): Promise<ImageInfo> {
  options.signal?.throwIfAborted();
  await using session = new Session(options);
  return await session.run(lookAt(session.graph, { filename, ...options }, options));
}

/**
 * Looks at an image and at every image below it, each by itself, as far as the backing policy allows.
 * @throws {BlockError} when one cannot be opened, or when an image appears twice.
 */
export async function imageChainInfo(filename: string, options: ImageInfoOptions = {}): Promise<ImageInfo[]> {
  options.signal?.throwIfAborted();
  await using session = new Session(options);
  return await session.run(lookAtChain(session.graph, { filename, ...options }, options));
}

/** The bytes of a disk. @throws {BlockError} when it cannot be opened. */
export async function imageLength(
  name: ImageName,
  options: Pick<ImageInfoOptions, "allowBacking" | "secrets" | "forceShare"> = {},
): Promise<number> {
  await using session = new Session(options);
  return (await session.run(openChain(session.graph, name, { readOnly: true, forceShare: options.forceShare }))).length;
}

function* lookAt(graph: Graph, image: ImageName, { forceShare }: ImageInfoOptions): Co<ImageInfo> {
  const node = yield* openAlone(graph, image, forceShare);
  const info = nodeImageInfo(node, image.filename);
  yield* graph.remove(node.name);
  return info;
}

function* lookAtChain(graph: Graph, top: ImageName, { forceShare }: ImageInfoOptions): Co<ImageInfo[]> {
  const root = top.filename;
  const infos: ImageInfo[] = [];
  const seen = new Set<string>();
  // The name that people see and the file that is opened differ: the policy follows symbolic links.
  let shown = root;
  let image: ImageName | undefined = top;
  while (image !== undefined) {
    const { filename }: ImageName = image;
    const node: BlockNode = yield* openAlone(graph, image, forceShare);
    const identity = node.children.file?.driver.identity;
    if (identity !== undefined && seen.has(identity))
      throw new BlockError("EINVAL", `Backing file '${shown}' creates an infinite loop.`, { path: filename });
    if (identity !== undefined) seen.add(identity);
    const info = nodeImageInfo(node, shown);
    infos.push(info);
    const backing = node.driver.backingFile ?? null;
    yield* graph.remove(node.name);
    if (backing === null) break;
    const next: string = yield* graph.backingPolicy.resolve(filename, backing, root);
    image = { filename: next, format: backing.format ?? undefined };
    shown = info["full-backing-filename"] ?? next;
  }
  return infos;
}

/** What an open node tells of its image. @param filename the name that people know it by */
export function nodeImageInfo(node: BlockNode, filename: string): ImageInfo {
  const { driver } = node;
  const backing = driver.backingFile ?? null;
  const size = actualSize(node);
  return {
    filename,
    format: driver.name,
    "virtual-size": node.length,
    "dirty-flag": false,
    ...(size === undefined ? {} : { "actual-size": size }),
    ...driver.information?.(),
    ...(backing === null
      ? {}
      : {
          "backing-filename": backing.filename,
          "full-backing-filename": combinePath(filename, backing.filename),
          ...(backing.format === null ? {} : { "backing-filename-format": backing.format }),
        }),
  };
}

/** Formats take up what their file does. */
function actualSize(node: BlockNode): number | undefined {
  for (let current: BlockNode | null = node; current !== null; current = current.children.file) {
    const size = current.driver.information?.()["actual-size"];
    if (size !== undefined) return size;
  }
  return undefined;
}
