/**
 * Filter `copy-on-read`: what a read has to fetch from the backing chain is kept in the image. The image's own driver
 * needs no support. Reads of what is already there never wait.
 */
import { alignDown, alignUp, BlockError, type Co } from "@spindle/base";
import { LockKind } from "@spindle/shared-memory";
import { chainStatus } from "../chain.ts";
import { IoVector } from "../io-vector.ts";
import type { BlockNode } from "../node.ts";
import type { DriverDefinition, OpenRequest } from "../registry.ts";
import { FilterDriver } from "./filter-driver.ts";

/** Copies are cut to this, so that a huge read does not take a huge buffer. */
const COPY_BYTES_MAX = 1024 * 1024;

class CopyOnReadDriver extends FilterDriver {
  readonly name = "copy-on-read";

  override *read(offset: number, vector: IoVector): Co<void> {
    const { file } = this;
    for (let done = 0; done < vector.length; ) {
      const status = yield* file.blockStatus(offset + done, vector.length - done);
      const length = status.length;
      // Also where there is no backing file: what nobody has stored is zeros from now on, as in QEMU.
      if (status.allocated) yield* file.read(offset + done, vector.slice(done, length));
      else yield* this.#copy(file, offset + done, vector.slice(done, length));
      done += length;
    }
  }

  /** Fills the whole clusters around an unallocated range, a bounded piece at a time, and reads from them. */
  *#copy(file: BlockNode, offset: number, vector: IoVector): Co<void> {
    for (let done = 0; done < vector.length; ) {
      const start = alignDown(offset + done, file.trackingUnit);
      const wanted = alignUp(offset + vector.length, file.trackingUnit) - start;
      const piece = Math.min(wanted, Math.max(COPY_BYTES_MAX, file.trackingUnit), file.length - start);
      yield* this.#populate(file, start, piece);
      const length = Math.min(start + piece - offset - done, vector.length - done);
      yield* file.read(offset + done, vector.slice(done, length));
      done += length;
    }
  }

  *#populate(file: BlockNode, start: number, length: number): Co<void> {
    const range = yield* file.track(LockKind.copy, start, length);
    try {
      for (let offset = start; offset < start + length; ) {
        // Looked at again under the lock: a write may have come first.
        const status = yield* chainStatus(file, null, offset, start + length - offset);
        if (status.depth > 0) yield* file.tell("cor_write");
        if (status.depth > 0 && status.zero) yield* file.driver.writeZeroes(offset, status.length, {});
        else if (status.depth > 0 && status.allocated) {
          const buffer = IoVector.of(new Uint8Array(status.length));
          yield* file.driver.read(offset, buffer);
          yield* file.driver.write(offset, buffer, {});
        }
        offset += status.length;
      }
    } finally {
      range.release();
    }
  }
}

export const copyOnReadFilter: DriverDefinition = {
  name: "copy-on-read",
  kind: "filter",
  options: {},
  *open(request: OpenRequest) {
    // What is read is to be kept.
    if (request.children.file?.readOnly === true) throw new BlockError("EROFS", "Block node is read-only");
    return new CopyOnReadDriver(request.children);
  },
};
