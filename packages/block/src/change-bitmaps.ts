/** Changes which dirty bitmaps there are, or what they have marked, under everything that writes. */
import type { Co } from "@spindle/base";
import type { DirtyBitmaps } from "./dirty-bitmaps.ts";
import type { Graph } from "./graph.ts";
import type { BlockNode } from "./node.ts";

/**
 * Runs `change` while nothing is in flight on the node, nor on the nodes of whose ports data movers use the node's storage:
 * they forget which places they may overwrite unseen.
 */
export function changeBitmaps<T>(graph: Graph, node: BlockNode, change: (bitmaps: DirtyBitmaps) => Co<T>): Co<T> {
  const above = graph.nodes().filter((other) => other.mappingCache !== null && other !== node && usesFile(other, node));
  let run = (): Co<T> => node.exclusively(() => change(node.bitmaps));
  for (const other of above) {
    const inner = run;
    run = () => other.exclusively(inner);
  }
  return run();
}

function usesFile({ children: { file } }: BlockNode, node: BlockNode): boolean {
  return file !== null && (file === node || usesFile(file, node));
}
