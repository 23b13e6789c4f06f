/** Where the content of a disk stands: the runs that `map` lists, as qemu-img does. */
import type { Co } from "@spindle/base";
import { type BlockNode, chainOf, type Extent, skipFilters } from "@spindle/block";
import { combinePath } from "./combine-path.ts";

/** One run of a disk. Offsets and lengths are bytes. */
export interface MapExtent {
  readonly start: number;
  readonly length: number;
  /** How many images below the top the content stands. */
  readonly depth: number;
  /** Some image of the chain has this run; otherwise it reads as zeros. */
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly compressed: boolean;
  /** Where it stands in the file of its image, uncompressed. */
  readonly offset?: number;
  /** The file name of its image, as it counts from here. */
  readonly filename?: string;
}

/** One image of a chain under the name that people know it by. */
export interface NamedLayer {
  readonly node: BlockNode;
  readonly filename: string;
  /** Where its data stands. */
  readonly dataFilename: string;
}

/** The chain from `top` down with the names that its images give each other. */
export function namedLayers(top: BlockNode, filename: string): NamedLayer[] {
  const layers: NamedLayer[] = [];
  // Above filters, the name is one of options: theirs, and not that of the image.
  let name = (top.filter ? skipFilters(top).filename : null) ?? filename;
  for (const node of chainOf(top)) {
    layers.push({ node, filename: name, dataFilename: node.children.data?.filename ?? name });
    name = combinePath(name, node.driver.backingFile?.filename ?? "");
  }
  return layers;
}

/** The run that begins at `start`, at most `length` long; the next one may continue it. */
export function* mapExtentAt(layers: readonly NamedLayer[], start: number, length: number): Co<MapExtent> {
  let run = length;
  for (let depth = 0; ; depth++) {
    const { node, dataFilename: filename } = layers[depth] as NamedLayer;
    const extent: Extent = yield* node.blockStatus(start, Math.min(run, node.length - start));
    run = extent.length;
    const below = layers[depth + 1]?.node;
    if (extent.allocated) return presentExtent(node, filename, { start, depth }, yield* withFileHoles(node, extent));
    // Beyond the end of a shorter image below there are zeros that this one defines.
    if (below === undefined || start >= below.length)
      return { ...NOWHERE, start, length: run, depth, ...placeOf(extent.hostOffset, filename) };
    run = Math.min(run, below.length - start);
  }
}

/** The beginning of a run of data, and whether it is a hole of the file, in images of which much is. */
function* withFileHoles(node: BlockNode, extent: Extent): Co<Extent> {
  const { data, hostOffset, file, length } = extent;
  if (!data || hostOffset === undefined || file === undefined) return extent;
  const { clusters } = node.driver;
  if (clusters?.hasFileHoles === undefined || !(yield* clusters.hasFileHoles())) return extent;
  const present = Math.min(length, file.length - hostOffset);
  if (present <= 0) return { ...extent, zero: true };
  const below = yield* file.blockStatus(hostOffset, present);
  const reachesEnd = hostOffset + below.length === file.length;
  return { ...extent, zero: below.zero, length: below.zero && reachesEnd ? length : below.length };
}

function presentExtent(
  node: BlockNode,
  filename: string,
  place: { readonly start: number; readonly depth: number },
  { length, zero, data, compressed, hostOffset }: Extent,
): MapExtent {
  // Holes of a raw image have a place like its data: the one that they have in the disk.
  const offset = node.driver.name === "raw" ? place.start : hostOffset;
  return { ...place, length, present: true, zero, data, compressed, ...placeOf(offset, filename) };
}

/** What no image of the chain has. It may have space all the same. */
const NOWHERE = { present: false, zero: true, data: false, compressed: false } as const;

function placeOf(offset: number | undefined, filename: string): Pick<MapExtent, "offset" | "filename"> {
  return offset === undefined ? {} : { offset, filename };
}

/** Both runs as one, or undefined when `next` does not continue `run`. */
export function mergeExtents(run: MapExtent, next: MapExtent): MapExtent | undefined {
  const same =
    run.depth === next.depth &&
    run.present === next.present &&
    run.zero === next.zero &&
    run.data === next.data &&
    run.compressed === next.compressed &&
    run.filename === next.filename &&
    (run.offset === undefined ? next.offset === undefined : run.offset + run.length === next.offset);
  return same ? { ...run, length: run.length + next.length } : undefined;
}
