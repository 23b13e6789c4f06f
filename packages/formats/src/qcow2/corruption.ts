/**
 * Damage that is met while an image is open for writing. Going on would spread it: the image is marked corrupt in its file,
 * so that nobody opens it for writing before it is repaired, takes no more changes, and tells its listeners. It can still
 * be read. What was not flushed is lost, as in a crash.
 */
import { BlockError, ByteView, type Co, isBlockError } from "@spindle/base";
import { type CorruptionEvent, IoVector } from "@spindle/block";
import { QCOW2_INCOMPAT_CORRUPT } from "./header.ts";
import type { ImageState } from "./image-state.ts";

const HEADER_INCOMPATIBLE = 72;

export class Corruption {
  readonly #state: ImageState;
  readonly #announce: (event: CorruptionEvent) => void;

  constructor(state: ImageState, announce: (event: CorruptionEvent) => void) {
    this.#state = state;
    this.#announce = announce;
  }

  /**
   * Does what may change the image.
   * @throws {BlockError} EIO when the image is damaged, also when the damage is met now.
   */
  *watch<T>(work: Co<T>): Co<T> {
    if (this.#state.isDamaged)
      throw new BlockError("EIO", "qcow2 image is corrupt: it takes no more writes", { corrupt: true });
    try {
      return yield* work;
    } catch (error) {
      yield* this.met(error);
      throw error;
    }
  }

  /** Looks at an error that a request ends with. Of several, the first damage counts. */
  *met(error: unknown): Co<void> {
    const state = this.#state;
    if (!isBlockError(error) || error.context.corrupt !== true || state.file.readOnly || state.isDamaged) return;
    state.isDamaged = true;
    const { offset, length } = error.context;
    this.#announce({ message: error.message, offset, length, fatal: true });
    // Version 2 has no place for the mark.
    if (state.header.version < 3) return;
    const bits = new ByteView(new Uint8Array(8));
    state.header = { ...state.header, incompatible: state.header.incompatible | QCOW2_INCOMPAT_CORRUPT };
    bits.setBigU64be(0, state.header.incompatible);
    yield* state.file.write(HEADER_INCOMPATIBLE, IoVector.of(bits.bytes));
    yield* state.file.flush();
  }
}
