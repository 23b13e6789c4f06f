/** Driver `raw`: the file is the disk. */
import { alignUp, BlockError, type Co, SECTOR_SIZE } from "@spindle/base";
import {
  type BlockDriver,
  type BlockNode,
  type Children,
  type CreateOptions,
  type DriverDefinition,
  type Extent,
  IoVector,
  type MeasuredSize,
  type MeasureOptions,
  type OpenRequest,
  type Preallocation,
  type WriteFlags,
  zeroExtent,
} from "@spindle/block";
import { checkFileOptions, FILE_CREATE_OPTIONS } from "../file-create-options.ts";

/** Bytes of an image in which its format is looked for. */
const PROBE_BYTES = 512;
const FIRST_BLOCK_BYTES = 4096;

const PREALLOCATIONS: readonly Preallocation[] = ["off", "metadata", "falloc", "full"];

class RawDriver implements BlockDriver {
  readonly name = "raw";
  readonly clusterSize = 1;
  readonly #children: Children;
  readonly #probe: OpenRequest["probe"];

  constructor({ children, probe }: OpenRequest) {
    this.#children = children;
    this.#probe = probe;
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
    if (this.#file.driver.debugEvent !== undefined) yield* this.#file.tell("read_aio");
    if (present > 0) yield* this.#file.read(offset, vector.slice(0, present));
    if (present < vector.length) vector.slice(present, vector.length - present).fill(0);
  }
  *write(offset: number, vector: IoVector, { placed }: WriteFlags): Co<void> {
    placed?.();
    if (offset < PROBE_BYTES && this.#probe !== undefined) yield* this.#checkHead(offset, vector);
    if (this.#file.driver.debugEvent !== undefined) yield* this.#file.tell("write_aio");
    yield* this.#file.write(offset, vector);
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
    if (present <= 0) return zeroExtent(length);
    const extent = yield* this.#file.blockStatus(offset, present);
    // Past the page cache there are only whole sectors: the last one of a file is all data, as QEMU tells it.
    const isLastSector = extent.data && extent.length === present && this.#file.cache.direct === true;
    return isLastSector ? { ...extent, length } : extent;
  }

  truncate(length: number, preallocation?: Preallocation): Co<void> {
    return this.#file.truncate(length, preallocation);
  }
  *close(): Co<void> {
    if (!this.#file.readOnly) yield* this.flush();
  }
  /**
   * An image that nobody called raw stays one: a guest that made it look like another format would choose what is opened
   * the next time, and with a backing file of its choice.
   */
  *#checkHead(offset: number, vector: IoVector): Co<void> {
    const head = new Uint8Array(PROBE_BYTES);
    yield* this.read(0, IoVector.of(head));
    IoVector.of(head)
      .slice(offset, Math.min(vector.length, PROBE_BYTES - offset))
      .copyFrom(vector.slice(0, Math.min(vector.length, PROBE_BYTES - offset)).toBytes());
    if (this.#probe?.(head) === this.name) return;
    throw new BlockError("EPERM", "the write would make the image look like one of another format", { offset });
  }

  shareableOptions(): Readonly<Record<string, unknown>> {
    return {};
  }
}

/** @throws {BlockError} EINVAL with QEMU's text for another option or an unknown mode. */
function preallocationOf(options: CreateOptions["options"]): Preallocation {
  for (const key of Object.keys(options))
    if (key !== "preallocation") throw new BlockError("EINVAL", `Invalid parameter '${key}'`);
  const { preallocation = "off" } = options;
  const mode = PREALLOCATIONS.find((one) => one === preallocation);
  if (mode !== undefined) return mode;
  throw new BlockError("EINVAL", `Parameter 'preallocation' does not accept value '${preallocation}'`);
}

export const rawFormat: DriverDefinition = {
  name: "raw",
  kind: "format",
  options: {},
  probe: () => 1,
  *open(request) {
    return new RawDriver(request);
  },
  measure({ size, options }: MeasureOptions): MeasuredSize {
    preallocationOf(options);
    const length = alignUp(size, SECTOR_SIZE);
    return { required: length, "fully-allocated": length };
  },
  createOptions: ["preallocation", ...FILE_CREATE_OPTIONS],
  *create(file: BlockNode, { size, options }: CreateOptions) {
    checkFileOptions(options);
    const length = alignUp(size, SECTOR_SIZE);
    yield* file.truncate(length, preallocationOf(options));
    // As QEMU does, so that whoever probes the file's alignment finds a block that is there.
    const first = length < FIRST_BLOCK_BYTES ? Math.min(length, SECTOR_SIZE) : FIRST_BLOCK_BYTES;
    if (first > 0) yield* file.write(0, IoVector.of(new Uint8Array(first)));
  },
};
