/** Creates images. */
import { rmSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { alignUp, BlockError, type Co, isBlockError, SECTOR_SIZE } from "@spindle/base";
import type { BackingFile, BlockNode, DriverDefinition, Graph } from "@spindle/block";
import { createFile } from "@spindle/host-node";
import { combinePath } from "./combine-path.ts";
import { formatNamed } from "./driver-registry.ts";
import { openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";

export interface CreateImageOptions extends ImageAccess {
  /** The image's format, such as `qcow2`. */
  readonly format: string;
  /** Bytes; the size of the backing file when absent. */
  readonly size?: number;
  /**
   * The name counts from the folder of the new image, and is written into it as it stands here. The format has to be told:
   * without it, the error says which one was found.
   */
  readonly backing?: { readonly filename: string; readonly format?: string | undefined };
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
  const definition = formatToCreate(options);
  const { options: own = {} } = options;
  const backing = yield* openedBacking(graph, filename, options);
  const size = options.size ?? backing?.length;
  if (size === undefined) throw new BlockError("EINVAL", "Image creation needs a size parameter");
  options.planned?.({ size });
  const existed = exists(filename);
  yield* createFile(filename);
  try {
    const file = yield* graph.open({ driver: "file", filename });
    const named = backing === undefined ? {} : { backing: backing.file };
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

/**
 * The format of that name.
 * @throws {BlockError} EINVAL when there is none, ENOTSUP when images of it cannot be created.
 */
export function creatableFormat(format: string): Creatable {
  const definition = formatNamed(format);
  if (definition?.create !== undefined) return definition as Creatable;
  throw new BlockError("ENOTSUP", `Format driver '${format}' does not support image creation`);
}

function formatToCreate({ format, backing, options = {} }: CreateImageOptions): Creatable {
  const definition = creatableFormat(format);
  if (backing !== undefined && definition.supportsBacking !== true)
    throw new BlockError("EINVAL", `Backing file not supported for file format '${format}'`);
  const unknown = Object.keys(options).find((key) => definition.createOptions?.includes(key) === false);
  if (unknown !== undefined) throw new BlockError("EINVAL", `Invalid parameter '${unknown}'`);
  return definition;
}

interface OpenedBacking {
  readonly file: BackingFile;
  /** Bytes, in whole sectors; undefined when it was not opened. */
  readonly length?: number;
}

/** Opens the backing file to see that it is one. */
function* openedBacking(
  graph: Graph,
  image: string,
  { backing, unsafe }: CreateImageOptions,
): Co<OpenedBacking | undefined> {
  if (backing === undefined) return undefined;
  const { filename, format } = backing;
  const path = combinePath(image, filename);
  if (resolve(image) === resolve(path))
    throw new BlockError("EINVAL", "Error: Trying to create an image with the same filename as the backing file");
  if (unsafe === true) return { file: { filename, format: formatTold(format) } };
  const node = yield* openBacking(graph, path, format);
  const { length, driver } = node;
  yield* graph.remove(node.name);
  return { file: { filename, format: formatTold(format, driver.name) }, length: alignUp(length, SECTOR_SIZE) };
}

function* openBacking(graph: Graph, filename: string, format: string | undefined): Co<BlockNode> {
  try {
    return yield* openChain(graph, { filename, format }, { readOnly: true, withoutData: true });
  } catch (error) {
    if (!isBlockError(error)) throw error;
    throw new BlockError(error.code, error.message, { ...error.context, hint: "Could not open backing image." }, error);
  }
}

/** A format that is found by looking would be the choice of whoever can write the backing file. */
function formatTold(format: string | undefined, found?: string): string {
  if (format !== undefined) return format;
  const hint = found === undefined ? {} : { hint: `Detected format of ${found}.` };
  throw new BlockError("EINVAL", "Backing file specified without backing format", hint);
}

function exists(filename: string): boolean {
  return statSync(filename, { throwIfNoEntry: false }) !== undefined;
}
