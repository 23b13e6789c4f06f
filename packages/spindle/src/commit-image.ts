/** Writes what an image holds into an image below it: what `qemu-img commit` does. */
import { realpathSync } from "node:fs";
import { BlockError, type Co } from "@spindle/base";
import { type BlockNode, chainOf, type Graph, type OptionRecord, skipFilters } from "@spindle/block";
import { convert } from "@spindle/jobs";
import { combinePath } from "./combine-path.ts";
import { type ImageName, openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";

const DEPTH = 8;

export interface CommitImageOptions extends ImageAccess {
  /** The image of the chain that is written to, by a name that counts from the folder of the image above it; the backing file when absent. */
  readonly base?: string;
  /** The image keeps its content, which the base has now too. Always so with `base`. */
  readonly keep?: boolean;
  /** Bytes per second; 0, the default, for no limit. */
  readonly speed?: number;
  /** Called with the bytes of the disk that are done, and its length. */
  readonly progress?: (done: number, size: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Nobody else may have the image or one below it open.
 * @throws {BlockError} EINVAL when there is no such image below, and what opening, reading and writing throws; the image is
 *   as it was then, and the base holds part of it.
 */
export async function commitImage(name: ImageName, options: CommitImageOptions = {}): Promise<void> {
  options.signal?.throwIfAborted();
  await using session = new Session(options);
  await session.run(commitIn(session, name, options));
}

function* commitIn(session: Session, name: ImageName, options: CommitImageOptions): Co<void> {
  const { graph, environment } = session;
  const { signal, progress, speed = 0 } = options;
  const plan = yield* planCommit(graph, name, options.base);
  const { direct = false } = name;
  const target = yield* openChain(graph, { ...targetName(plan.base), direct }, { readOnly: false });
  const top = yield* graph.open({ ...overTarget(plan.above, target.name), cache: { direct } });
  if (target.length < top.length) yield* target.truncate(top.length);
  yield* convert(environment, {
    sources: [top],
    target,
    leftTo: target,
    targetIsZero: false,
    inOrder: true,
    depth: DEPTH,
    speed,
    flags: { mayUnmap: true },
    ...(progress === undefined ? {} : { progress: (done) => progress(done, top.length) }),
    ...(signal === undefined ? {} : { canceled: () => signal.aborted }),
  });
  // The base must have it before the image lets go of it.
  yield* target.flush();
  if (options.keep === true || options.base !== undefined) return;
  const image = skipFilters(top);
  const { driver } = image;
  if (driver.makeEmpty === undefined)
    throw new BlockError("ENOTSUP", `Could not empty ${name.filename}: Operation not supported`);
  const empty = driver.makeEmpty.bind(driver);
  yield* image.exclusively(() => empty());
}

interface CommitPlan {
  /** The images above the base, from the top down. */
  readonly above: readonly NamedFile[];
  readonly base: NamedFile;
}

interface NamedFile {
  readonly filename: string;
  readonly format: string;
  /** What else its format was told, such as where its key is. */
  readonly own: OptionRecord;
}

/** Looks at the chain, and closes it again: the base is to be opened once, for writing. */
function* planCommit(graph: Graph, name: ImageName, base: string | undefined): Co<CommitPlan> {
  const top = yield* openChain(graph, name, { readOnly: true });
  const layers = chainOf(top);
  const index = base === undefined ? 1 : indexOf(layers, base, name.filename);
  if (layers.length < 2) throw new BlockError("EINVAL", "Image does not have a backing file");
  const files = layers.map((layer, depth) => {
    return { filename: fileOf(layer), format: layer.driver.name, own: formatOptions(name.options, depth) };
  });
  yield* graph.remove(top.name);
  return { above: files.slice(0, index), base: files[index] as NamedFile };
}

function indexOf(layers: readonly BlockNode[], base: string, filename: string): number {
  const above = layers.findIndex((layer, depth) => {
    const below = layers[depth + 1]?.filename ?? null;
    return below !== null && realPath(combinePath(fileOf(layer), base)) === realPath(below);
  });
  if (above >= 0) return above + 1;
  throw new BlockError("EINVAL", `Did not find '${base}' in the backing chain of '${filename}'`);
}

/** The options of the top and the images below it, down to the target, which is there. */
function overTarget(above: readonly NamedFile[], target: string): OptionRecord {
  return above.reduceRight<OptionRecord>(
    (below, { filename, format, own }, depth) => ({
      ...own,
      driver: format,
      "read-only": depth > 0,
      file: { driver: "file", filename },
      backing: depth === above.length - 1 ? target : below,
    }),
    {},
  );
}

function targetName({ filename, format, own }: NamedFile): ImageName {
  if (Object.keys(own).length === 0) return { filename, format };
  return { filename, options: { ...own, driver: format, file: { driver: "file", filename } } };
}

/** Options that every node has, or that are told anew. */
const NODE_OPTIONS = ["driver", "node-name", "read-only", "force-share", "cache", "file", "backing"];

/** What the user has told the format of the image so many layers down. */
function formatOptions(options: OptionRecord = {}, depth: number): OptionRecord {
  if (depth === 0) return Object.fromEntries(Object.entries(options).filter(([key]) => !NODE_OPTIONS.includes(key)));
  const { backing } = options;
  return typeof backing === "object" && backing !== null ? formatOptions(backing as OptionRecord, depth - 1) : {};
}

function fileOf({ filename, name }: BlockNode): string {
  if (filename === null) throw new BlockError("ENOTSUP", `node '${name}' has no file name to open it by`);
  return filename;
}

function realPath(path: string): string {
  try {
    return realpathSync.native(path);
  } catch {
    return path;
  }
}
