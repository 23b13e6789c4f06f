/** Questions about a whole backing chain: a node, the one it rests on, and so on down. */
import { assert, type Co } from "@spindle/base";
import { type Extent, unallocatedExtent, zeroExtent } from "./extent.ts";
import type { BlockNode } from "./node.ts";

/** The node that holds the content: filters on top of it are passed by. */
export function skipFilters(node: BlockNode): BlockNode {
  let current = node;
  while (current.filter && current.children.file !== null) current = current.children.file;
  return current;
}

/** The node whose content shows through where `node` has none of its own, filters included; null at the end. */
export function backingOf(node: BlockNode): BlockNode | null {
  return skipFilters(node).children.backing;
}

/** The chain from `top` down, each layer once, without filters. */
export function chainOf(top: BlockNode): BlockNode[] {
  const layers: BlockNode[] = [];
  for (let node: BlockNode | null = top; node !== null; node = backingOf(node)) layers.push(skipFilters(node));
  return layers;
}

export interface ChainExtent extends Extent {
  /** How many layers below `top` the content stands; the number of layers looked at when nowhere. */
  readonly depth: number;
  /** A filter stands above the layer that answered: its data must be read through the filter, and no place is told. */
  readonly filtered: boolean;
}

/**
 * The first run of one kind from `offset` on, as it is seen through the chain from `top` down to, and without, `base`.
 * What no layer has allocated is `allocated: false`; it reads as zeros when `base` is null. Beyond the end of a shorter
 * layer lie zeros that this layer has allocated.
 */
export function* chainStatus(top: BlockNode, base: BlockNode | null, offset: number, length: number): Co<ChainExtent> {
  let run = length;
  let depth = 0;
  let filtered = false;
  for (let node: BlockNode | null = top; node !== null && node !== base; node = backingOf(node)) {
    const layer = skipFilters(node);
    filtered ||= layer !== node;
    if (depth > 0 && offset >= layer.length) return { ...zeroExtent(run), depth, filtered };
    // Filters are asked, too: one may not let this be known.
    const extent: Extent = yield* node.blockStatus(offset, Math.min(run, layer.length - offset));
    assert(extent.length > 0 && extent.length <= run, "a driver answered block status with a run of a wrong length");
    run = extent.length;
    if (extent.allocated) return { ...(filtered ? withoutPlace(extent) : extent), depth, filtered };
    depth += 1;
  }
  return { ...unallocatedExtent(run), zero: base === null, depth, filtered };
}

/** The extent without the place of its data, for those who must not go around a filter. */
export function withoutPlace({ length, allocated, zero, data, compressed }: Extent): Extent {
  return { length, allocated, zero, data, compressed };
}
