/** Tells how long the file of a new image becomes: what `qemu-img measure` does. */
import { BlockError, type Co } from "@spindle/base";
import { type BlockNode, chainStatus, type DriverDefinition, type Graph, type MeasuredSize } from "@spindle/block";
import { creatableFormat } from "./create-image.ts";
import { type ImageName, openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";
import { type SnapshotSelector, showSnapshot } from "./show-snapshot.ts";

export interface MeasureImageOptions extends ImageAccess {
  /** The new image's format. */
  readonly format: string;
  /** Its own options, with qemu-img's keys and texts. */
  readonly options?: Readonly<Record<string, string>>;
  /** It has a backing file, of which nobody knows what it shares with the source: all may be data. */
  readonly hasBacking?: boolean;
  /** Measures for this internal snapshot of the source instead of for the disk as it is now. */
  readonly snapshot?: SnapshotSelector;
  /** Another program may be writing the source. */
  readonly forceShare?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * @param source the image whose content it is to hold, or the bytes of an empty disk
 * @throws {BlockError} EINVAL when an option is wrong, ENOTSUP when the format cannot tell, and what opening throws.
 */
export async function measureImage(source: ImageName | number, options: MeasureImageOptions): Promise<MeasuredSize> {
  options.signal?.throwIfAborted();
  await using session = new Session(options);
  return await session.run(measureIn(session.graph, source, options));
}

function* measureIn(graph: Graph, source: ImageName | number, request: MeasureImageOptions): Co<MeasuredSize> {
  const { format, options = {}, hasBacking = false } = request;
  const definition: DriverDefinition = creatableFormat(format);
  if (definition.measure === undefined)
    throw new BlockError("ENOTSUP", `Format driver '${format}' does not support size measurement`);
  if (typeof source === "number") return definition.measure({ size: source, options, data: [] });
  const node = yield* openChain(graph, source, { readOnly: true, forceShare: request.forceShare });
  if (request.snapshot !== undefined) yield* showSnapshot(node, request.snapshot);
  const data = hasBacking ? null : yield* dataRuns(node);
  const bitmaps = node.bitmaps.persistent();
  return definition.measure({ size: node.length, options, data, ...(bitmaps === null ? {} : { bitmaps }) });
}

function* dataRuns(node: BlockNode): Co<{ offset: number; length: number }[]> {
  const runs: { offset: number; length: number }[] = [];
  for (let offset = 0; offset < node.length; ) {
    const { length, allocated, zero } = yield* chainStatus(node, null, offset, node.length - offset);
    const last = runs.at(-1);
    if (allocated && !zero) {
      if (last !== undefined && last.offset + last.length === offset) last.length += length;
      else runs.push({ offset, length });
    }
    offset += length;
  }
  return runs;
}
