/** What `info` tells of images, with the keys of qemu-img's JSON output (qapi ImageInfo). */
import type { Co } from "@spindle/base";
import type { BlockNode, Graph, ImageInformation } from "@spindle/block";
import { combinePath } from "./combine-path.ts";
import { openAlone } from "./open-image.ts";
import { Session } from "./session.ts";

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

export interface ImageInfoOptions {
  /** The image's format; found out when absent. */
  readonly format?: string | undefined;
  /** Folders in which, or below which, backing files may lie beside the image's own folder. */
  readonly allowBacking?: readonly string[];
  readonly signal?: AbortSignal;
}

/**
 * Looks at one image, and opens nothing that it names.
 * @throws {BlockError} when it cannot be opened.
 */
export async function imageInfo(filename: string, options: ImageInfoOptions = {}): Promise<ImageInfo> {
  options.signal?.throwIfAborted();
  await using session = new Session();
  return await session.run(lookAt(session.graph, filename, options.format));
}

/**
 * Looks at an image and at every image below it, each by itself, as far as the backing policy allows.
 * @throws {BlockError} when one cannot be opened, or when an image appears twice.
 */
export async function imageChainInfo(filename: string, options: ImageInfoOptions = {}): Promise<ImageInfo[]> {
  options.signal?.throwIfAborted();
  await using session = new Session({ allowBacking: options.allowBacking ?? [] });
  return await session.run(lookAtChain(session.graph, filename, options.format));
}

function* lookAt(graph: Graph, filename: string, format: string | undefined): Co<ImageInfo> {
  const node = yield* openAlone(graph, { filename, format });
  try {
    return nodeImageInfo(node, filename);
  } finally {
    yield* graph.remove(node.name);
  }
}
