/** A range that a request holds in a node's tracker while it is in flight. */
import type { BlockNode } from "./node.ts";

/** Made by {@link BlockNode.track}; rounded out to clusters. Offset and length are bytes. */
export class TrackedRange {
  readonly #node: BlockNode;
  readonly #slot: number;
  readonly offset: number;
  readonly length: number;

  constructor(node: BlockNode, slot: number, offset: number, length: number) {
    this.#node = node;
    this.#slot = slot;
    this.offset = offset;
    this.length = length;
  }

  release(): void {
    this.#node.untrack(this.#slot);
  }
}
