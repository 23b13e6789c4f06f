/** What `query-named-block-nodes` says of a node: QEMU's BlockDeviceInfo and ImageInfo (block-core.json). */
import type { Co } from "@spindle/base";
import { type BlockNode, backingOf, skipFilters } from "@spindle/block";
import { given } from "./given.ts";

/** @param flat without the images below it */
export function* blockNodeInfo(node: BlockNode, flat: boolean): Co<Readonly<Record<string, unknown>>> {
  const backing = node.children.backing;
  const bitmaps = yield* bitmapInfos(node);
  return {
    "node-name": node.name,
    drv: node.driver.name,
    ro: node.readOnly,
    file: filenameOf(node),
    ...given({ backing_file: backing === null ? undefined : filenameOf(backing) }),
    backing_file_depth: flat ? 0 : depthBelow(node),
    image: imageInfo(node, flat),
    encrypted: information(node).encrypted === true,
    ...given({ "dirty-bitmaps": bitmaps.length === 0 ? undefined : bitmaps }),
    cache: { writeback: true, direct: node.cache.direct === true, "no-flush": node.cache.noFlush === true },
    detect_zeroes: "off",
    write_threshold: 0,
    bps: 0,
    bps_rd: 0,
    bps_wr: 0,
    iops: 0,
    iops_rd: 0,
    iops_wr: 0,
  };
}

/** Its dirty bitmaps, the newest first. */
function* bitmapInfos(node: BlockNode): Co<Readonly<Record<string, unknown>>[]> {
  const infos: Readonly<Record<string, unknown>>[] = [];
  for (const bitmap of node.bitmaps.list()) {
    const { name, granularity, enabled, persistent, inconsistent } = bitmap;
    const count = inconsistent ? 0 : yield* bitmap.markedBytes();
    const mark = inconsistent ? { inconsistent } : {};
    infos.unshift({ name, granularity, count, recording: enabled, busy: false, persistent, ...mark });
  }
  return infos;
}

/** The file name of the image that a node gives access to; empty when it has none. */
export function filenameOf(node: BlockNode): string {
  return node.filename ?? skipFilters(node).filename ?? "";
}

/** The images below a node's own, filters not counted. */
export function chainDepth(node: BlockNode): number {
  let depth = 0;
  for (let layer = backingOf(node); layer !== null; layer = backingOf(layer)) depth += 1;
  return depth;
}

function imageInfo(node: BlockNode, flat: boolean): Readonly<Record<string, unknown>> {
  const below = flat ? null : nodeBelow(node);
  const named = node.driver.backingFile ?? null;
  const { encrypted, ...facts } = information(node);
  return {
    filename: filenameOf(node),
    format: node.driver.name,
    "virtual-size": node.length,
    "dirty-flag": false,
    ...facts,
    ...given({
      encrypted: encrypted === true ? true : undefined,
      "actual-size": actualSize(node),
      "backing-filename": named?.filename,
      "backing-filename-format": named?.format ?? undefined,
      "full-backing-filename": named === null ? undefined : node.children.backing?.filename,
      "backing-image": below === null ? undefined : imageInfo(below, false),
    }),
  };
}

function information(node: BlockNode): NonNullable<ReturnType<NonNullable<BlockNode["driver"]["information"]>>> {
  return node.driver.information?.() ?? {};
}

/** Formats take up what their file does. */
function actualSize(node: BlockNode): number | undefined {
  for (let current: BlockNode | null = node; current !== null; current = current.children.file) {
    const size = information(current)["actual-size"];
    if (size !== undefined) return size;
  }
  return undefined;
}

/** The node of which this one is a filtered view or an overlay. */
function nodeBelow(node: BlockNode): BlockNode | null {
  return node.filter ? node.children.file : node.children.backing;
}

function depthBelow(node: BlockNode): number {
  let depth = 0;
  for (let below = nodeBelow(node); below !== null; below = nodeBelow(below)) depth += 1;
  return depth;
}
