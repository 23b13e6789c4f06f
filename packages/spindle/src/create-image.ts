/** Creates images. */
import { rmSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { alignUp, BlockError, type Co, isBlockError, SECTOR_SIZE } from "@spindle/base";
import type { BackingFile, BlockNode, DriverDefinition, Graph } from "@spindle/block";
import { createFile } from "@spindle/host-node";
import { openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";

export interface CreateImageOptions extends ImageAccess {
  /** The image's format, such as `qcow2`. */
  readonly format: string;
  /** Bytes; the size of the backing file when absent. */
  readonly size?: number;
  /** The name counts from the folder of the new image, and is written into it as it stands here. */
  readonly backing?: { readonly filename: string; readonly format: string };
  /** Does not open the backing file: it may come later. A size is needed then. */
  readonly unsafe?: boolean;
  /** The format's own options, with qemu-img's keys and texts, such as `{ cluster_size: "64k" }`. */
  readonly options?: Readonly<Record<string, string>>;
  /** Called when it is known what will be created, before anything is. */
  readonly planned?: (image: CreatedImage) => void;
  readonly signal?: AbortSignal;
}

/** What was created. */
export interface CreatedImage {
  /** Bytes, as it was given or taken from the backing file. */
  readonly size: number;
}

/**
 * Creates an image in a new file, or in the place of the file that is there.
 * @throws {BlockError} EINVAL when an option is wrong, ENOTSUP when the format cannot be created, and what opening the
 *   backing file and writing the file may throw. A file that this call has made is removed then.
 */
export async function createImage(filename: string, options: CreateImageOptions): Promise<CreatedImage> {
  options.signal?.throwIfAborted();
  await using session = new Session(options);
  return await session.run(createIn(session.graph, filename, options));
}

/** The same in a graph that is there. */
export function* createIn(graph: Graph, filename: string, options: CreateImageOptions): Co<CreatedImage> {
  const definition = formatToCreate(graph, options);
  const { backing, options: own = {} } = options;
  const size = options.size ?? (yield* sizeFromBacking(graph, filename, options));
  if (options.size !== undefined && backing !== undefined && options.unsafe !== true)
    yield* backingLength(graph, filename, backing);
  options.planned?.({ size });
  const existed = exists(filename);
  yield* createFile(filename);
  try {
    const file = yield* graph.open({ driver: "file", filename });
    const named: { backing?: BackingFile } = backing === undefined ? {} : { backing };
    const data = yield* createDataFile(graph, filename, definition, own);
    const apart = data === undefined ? {} : { dataFile: data };
    yield* definition.create(file, { size, options: own, ...named, ...apart }, graph.environment);
    if (data !== undefined) {
      yield* data.flush();
      yield* graph.remove(data.name);
    }
    yield* file.flush();
    yield* graph.remove(file.name);
  } catch (error) {
    if (!existed) rmSync(filename, { force: true });
    throw error;
  }
  return { size };
}

/** The name counts from the folder of the new image, as when it is opened. */
function* createDataFile(
  graph: Graph,
  filename: string,
  definition: DriverDefinition,
  { data_file: name }: Readonly<Record<string, string>>,
): Co<BlockNode | undefined> {
  if (name === undefined || definition.dataFile === undefined) return undefined;
  const path = resolve(dirname(filename), name);
  if (name === "") throw new BlockError("ENOENT", "Could not create '': No such file or directory");
  if (path === resolve(filename))
    throw new BlockError("EINVAL", "Error: Trying to create an image with the same filename as the data file");
  yield* createFile(path);
  return yield* graph.open({ driver: "file", filename: path });
}

type Creatable = DriverDefinition & Required<Pick<DriverDefinition, "create">>;

function formatToCreate(graph: Graph, { format, backing, options = {} }: CreateImageOptions): Creatable {
  if (!graph.registry.names().includes(format)) throw new BlockError("EINVAL", `Unknown file format '${format}'`);
  const definition = graph.registry.get(format);
  if (definition.create === undefined)
    throw new BlockError("ENOTSUP", `Format driver '${format}' does not support image creation`);
  if (backing !== undefined && definition.supportsBacking !== true)
    throw new BlockError("EINVAL", `Backing file not supported for file format '${format}'`);
  const unknown = Object.keys(options).find((key) => definition.createOptions?.includes(key) === false);
  if (unknown !== undefined) throw new BlockError("EINVAL", `Invalid parameter '${unknown}'`);
  return definition as Creatable;
}

function* sizeFromBacking(graph: Graph, filename: string, options: CreateImageOptions): Co<number> {
  const { backing, unsafe } = options;
  if (backing === undefined || unsafe === true) throw new BlockError("EINVAL", "Image creation needs a size parameter");
  return alignUp(yield* backingLength(graph, filename, backing), SECTOR_SIZE);
}

/** Opens the backing file to see that it is one. */
function* backingLength(graph: Graph, filename: string, { filename: name, format }: BackingFile): Co<number> {
  const path = resolve(dirname(filename), name);
  if (resolve(filename) === path)
    throw new BlockError("EINVAL", "Error: Trying to create an image with the same filename as the backing file");
  try {
    const image = { filename: path, format: format ?? undefined };
    const node = yield* openChain(graph, image, { readOnly: true, withoutData: true });
    const { length } = node;
    yield* graph.remove(node.name);
    return length;
  } catch (error) {
    if (!isBlockError(error)) throw error;
    throw new BlockError(error.code, `${error.message}; the backing file cannot be opened`, error.context, error);
  }
}

function exists(filename: string): boolean {
  return statSync(filename, { throwIfNoEntry: false }) !== undefined;
}
