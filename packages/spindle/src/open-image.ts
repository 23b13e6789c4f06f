/** The two ways to open an image by its file name: with its backing chain, and alone. */
import { BlockError, type Co, isBlockError } from "@spindle/base";
import { type BlockNode, type Graph, IoVector } from "@spindle/block";

/** As many bytes as the graph itself looks at to find a format out. */
const PROBE_BYTES = 512;

export interface ImageName {
  readonly filename: string;
  /** Found out by looking at the first bytes when absent. */
  readonly format?: string | undefined;
}

/** Opens an image and the chain below it. @throws {BlockError} that names the file. */
export function* openChain(graph: Graph, { filename, format }: ImageName, readOnly: boolean): Co<BlockNode> {
  try {
    if (format !== undefined) checkFormat(graph, format);
    return yield* graph.openImage(filename, format, readOnly);
  } catch (error) {
    throw namingFile(error, filename);
  }
}

/**
 * Opens an image and nothing that it names, read-only: all that a look at an image needs that nobody trusts yet.
 * @throws {BlockError} that names the file.
 */
export function* openAlone(graph: Graph, { filename, format }: ImageName): Co<BlockNode> {
  try {
    if (format !== undefined) checkFormat(graph, format);
    const driver = format ?? (yield* probeFormat(graph, filename));
    const backing = graph.registry.get(driver).supportsBacking === true ? { backing: null } : {};
    return yield* graph.open({ driver, "read-only": true, file: { driver: "file", filename }, ...backing });
  } catch (error) {
    throw namingFile(error, filename);
  }
}

function* probeFormat(graph: Graph, filename: string): Co<string> {
  const file = yield* graph.open({ driver: "file", filename, "read-only": true });
  try {
    const head = new Uint8Array(Math.min(PROBE_BYTES, file.length));
    yield* file.read(0, IoVector.of(head));
    return graph.registry.probe(head);
  } finally {
    yield* graph.remove(file.name);
  }
}

/** Protocols and filters open no image by its file name. */
function checkFormat(graph: Graph, format: string): void {
  if (graph.registry.get(format).kind !== "format") throw new BlockError("EINVAL", `'${format}' is no image format`);
}

function namingFile(error: unknown, filename: string): unknown {
  if (!isBlockError(error) || error.message.startsWith("Could not open '")) return error;
  return new BlockError(error.code, `Could not open '${filename}': ${error.message}`, error.context, error);
}
