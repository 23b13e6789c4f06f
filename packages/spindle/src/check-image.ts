/** Checks and repairs images. */
import { BlockError, type Co } from "@spindle/base";
import type { BlockNode, CheckResult, Graph, OptionRecord, Repair } from "@spindle/block";
import { checkFormat, namingFile, probeFormat } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";

export interface CheckImageOptions {
  /** The image's format; found out by looking at its first bytes when absent. */
  readonly format?: string | undefined;
  /** Options as `blockdev-add` takes them; the file name is for people only then. */
  readonly options?: OptionRecord | undefined;
  /** Passwords of encrypted images, by the ids with which options such as `encrypt.key-secret` name them. */
  readonly secrets?: ImageAccess["secrets"];
  readonly warn?: ImageAccess["warn"];
  /** Reads and writes past the host's page cache. Default false. */
  readonly direct?: boolean;
  /**
   * What may be changed; nothing when absent. A repair leaves an image in which another check finds nothing, as far as
   * the file can be written at all.
   */
  readonly repair?: Repair;
  /** Takes one line for each thing that is wrong or was repaired. */
  readonly report?: (line: string) => void;
  readonly signal?: AbortSignal;
}

/** What was found, and in which format. */
export interface ImageCheck extends CheckResult {
  readonly format: string;
}

/** The image's format has nothing that could be checked. */
export class NoCheckError extends BlockError {}

/**
 * Looks for what is wrong in one image, and opens nothing that it names. Nobody else may write it meanwhile. One that is
 * encrypted needs its key, though what is checked is not encrypted.
 * @throws {NoCheckError} for formats without a check; BlockError with `Could not open` when the file is no image that can
 *   be looked at, and with other messages when the check could not be done.
 */
export async function checkImage(filename: string, options: CheckImageOptions = {}): Promise<ImageCheck> {
  options.signal?.throwIfAborted();
  await using session = new Session({ secrets: options.secrets, warn: options.warn });
  return await session.run(check(session, filename, options));
}

function* check({ graph, environment }: Session, filename: string, options: CheckImageOptions): Co<ImageCheck> {
  const { repair = "none", report = () => {}, options: given = {}, direct = false } = options;
  const told = (given["file"] ?? { driver: "file", filename }) as OptionRecord | string;
  const file = typeof told === "string" ? told : { cache: given["cache"] ?? { direct }, ...told };
  const format = yield* named(filename, findFormat(graph, file, options.format ?? (given["driver"] as string)));
  const definition = graph.registry.get(format);
  const node = yield* named(filename, openFile(graph, file, repair === "none"));
  if (definition.prepareCheck !== undefined) yield* named(filename, definition.prepareCheck(node, given, environment));
  if (definition.check === undefined)
    throw new NoCheckError("ENOTSUP", "This image format does not support checks", { path: filename });
  const result = yield* definition.check(node, { repair, report });
  return { ...result, format };
}

/** The session closes the file. */
function* openFile(graph: Graph, file: OptionRecord | string, readOnly: boolean): Co<BlockNode> {
  if (typeof file === "string") return graph.lookup(file);
  return yield* graph.open({ "read-only": readOnly, ...file });
}

function* findFormat(graph: Graph, file: OptionRecord | string, format: string | undefined): Co<string> {
  if (format !== undefined) checkFormat(graph, format);
  return format ?? (yield* probeFormat(graph, file as OptionRecord));
}

function* named<T>(filename: string, opening: Co<T>): Co<T> {
  try {
    return yield* opening;
  } catch (error) {
    throw namingFile(error, filename);
  }
}
