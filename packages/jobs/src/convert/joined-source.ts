/** The sources of a conversion as one disk: one behind the other, each rounded up to whole sectors. */
import { alignUp, type Co, SECTOR_SIZE } from "@spindle/base";
import { type BlockNode, chainStatus, IoVector } from "@spindle/block";

/** What a run of the source is to its copy. */
export type SourceKind =
  | "data"
  | "zero"
  /** Left to the backing file of the target, which shows the same. */
  | "backing";

export interface SourceRun {
  readonly kind: SourceKind;
  /** Bytes, at least 1. */
  readonly length: number;
}

interface Part {
  readonly node: BlockNode;
  readonly start: number;
  readonly end: number;
}

export class JoinedSource {
  /** Bytes. */
  readonly length: number;
  readonly #parts: readonly Part[];
  readonly #baseOf: (node: BlockNode) => BlockNode | null;
  readonly #start: number;

  /**
   * @param baseOf the image of a source's chain from which on the content is left to the target's backing file
   * @param window the part that counts; all of it when absent
   */
  constructor(
    nodes: readonly BlockNode[],
    baseOf: (node: BlockNode) => BlockNode | null,
    window: { readonly start: number; readonly length: number } = { start: 0, length: Number.POSITIVE_INFINITY },
  ) {
    let end = 0;
    this.#parts = nodes.map((node) => {
      const start = end;
      end += alignUp(node.length, SECTOR_SIZE);
      return { node, start, end };
    });
    this.length = Math.max(0, Math.min(end - window.start, window.length));
    this.#start = window.start;
    this.#baseOf = baseOf;
  }

  /** The run that begins at `at`, at most `length` long. */
  *status(at: number, length: number): Co<SourceRun> {
    const offset = at + this.#start;
    const { node, start, end } = this.#partAt(offset);
    const most = Math.min(length, end - offset);
    const inside = node.length - (offset - start);
    if (inside <= 0) return { kind: "zero", length: most };
    const extent = yield* chainStatus(node, this.#baseOf(node), offset - start, Math.min(most, inside));
    const kind = extent.zero ? "zero" : extent.allocated ? "data" : "backing";
    return { kind, length: extent.length };
  }

  *read(from: number, into: Uint8Array): Co<void> {
    const offset = from + this.#start;
    for (let done = 0; done < into.length; ) {
      const { node, start, end } = this.#partAt(offset + done);
      const take = Math.min(into.length - done, end - offset - done);
      const at = offset + done - start;
      const present = Math.max(0, Math.min(take, node.length - at));
      if (present > 0) yield* node.read(at, IoVector.of(into.subarray(done, done + present)));
      into.fill(0, done + present, done + take);
      done += take;
    }
  }

  #partAt(offset: number): Part {
    return this.#parts.find(({ end }) => offset < end) as Part;
  }
}
