/** What every filter is until it says otherwise: a driver that passes each request to its `file` child. */
import { assert, type Co } from "@spindle/base";
import { withoutPlace } from "../chain.ts";
import type { BlockDriver, Preallocation, WriteFlags } from "../driver.ts";
import type { Extent } from "../extent.ts";
import type { IoVector } from "../io-vector.ts";
import type { BlockNode, Children } from "../node.ts";

export abstract class FilterDriver implements BlockDriver {
  abstract readonly name: string;
  readonly #children: Children;

  constructor(children: Children) {
    assert(children.file !== null, "a filter needs a node to filter");
    this.#children = children;
  }

  protected get file(): BlockNode {
    return this.#children.file as BlockNode;
  }

  get requestAlignment(): number {
    return this.file.driver.requestAlignment;
  }
  get clusterSize(): number {
    return this.file.driver.clusterSize;
  }
  get growable(): boolean {
    return this.file.driver.growable === true;
  }
  get identity(): string | undefined {
    return this.file.driver.identity;
  }

  length(): number {
    return this.file.length;
  }
  read(offset: number, vector: IoVector): Co<void> {
    return this.file.read(offset, vector);
  }
  write(offset: number, vector: IoVector, flags: WriteFlags): Co<void> {
    return this.file.write(offset, vector, flags);
  }
  writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    return this.file.writeZeroes(offset, length, flags);
  }
  discard(offset: number, length: number): Co<void> {
    return this.file.discard(offset, length);
  }
  flush(): Co<void> {
    return this.file.flush();
  }
  *blockStatus(offset: number, length: number): Co<Extent> {
    // Data reached past the filter would escape it: its place is not told.
    return withoutPlace(yield* this.file.blockStatus(offset, length));
  }
  truncate(length: number, preallocation?: Preallocation): Co<void> {
    return this.file.truncate(length, preallocation);
  }
  *close(): Co<void> {}
}
