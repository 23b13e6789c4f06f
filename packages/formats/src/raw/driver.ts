/** Driver `raw`: the file is the disk. */
import { alignUp, type Co, SECTOR_SIZE } from "@spindle/base";
import {
  type BlockDriver,
  type BlockNode,
  type Children,
  type CreateOptions,
  type DriverDefinition,
  type Extent,
  type IoVector,
  type WriteFlags,
  zeroExtent,
} from "@spindle/block";

class RawDriver implements BlockDriver {
  readonly name = "raw";
  readonly clusterSize = 1;
  readonly #children: Children;

  constructor(children: Children) {
    this.#children = children;
  }

  get #file(): BlockNode {
    return this.#children.file as BlockNode;
  }
  get requestAlignment(): number {
    return this.#file.driver.requestAlignment;
  }

  /** Disks are whole sectors long: zeros follow the end of a file that is not. */
  length(): number {
    return alignUp(this.#file.length, SECTOR_SIZE);
  }

  *read(offset: number, vector: IoVector): Co<void> {
    const present = Math.max(0, Math.min(vector.length, this.#file.length - offset));
    if (present > 0) yield* this.#file.read(offset, vector.slice(0, present));
    if (present < vector.length) vector.slice(present, vector.length - present).fill(0);
  }
  write(offset: number, vector: IoVector): Co<void> {
    return this.#file.write(offset, vector);
  }
  writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    return this.#file.writeZeroes(offset, length, flags);
  }
  *discard(offset: number, length: number): Co<void> {
    const present = Math.min(length, this.#file.length - offset);
    if (present > 0) yield* this.#file.discard(offset, present);
  }
  flush(): Co<void> {
    return this.#file.flush();
  }

  *blockStatus(offset: number, length: number): Co<Extent> {
    const present = Math.min(length, this.#file.length - offset);
    return present > 0 ? yield* this.#file.blockStatus(offset, present) : zeroExtent(length);
  }

  truncate(length: number): Co<void> {
    return this.#file.truncate(length);
  }
  *close(): Co<void> {
    if (!this.#file.readOnly) yield* this.flush();
  }
  shareableOptions(): Readonly<Record<string, unknown>> {
    return {};
  }
}

export const rawFormat: DriverDefinition = {
  name: "raw",
  kind: "format",
  options: {},
  probe: () => 1,
  *open(request) {
    return new RawDriver(request.children);
  },
  *create(file: BlockNode, { size }: CreateOptions) {
    yield* file.truncate(alignUp(size, SECTOR_SIZE));
  },
};
