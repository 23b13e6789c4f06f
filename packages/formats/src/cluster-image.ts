/**
 * A disk made of clusters: reading through the chain, writing in place, copy-on-write, zeroing and discarding, written
 * once over a `ClusterMap`. Every cluster format is a map and this.
 */
import { alignDown, alignUp, assert, BlockError, type Co } from "@spindle/base";
import {
  type BlockNode,
  type Children,
  type ClusterMap,
  chainStatus,
  type Extent,
  IoVector,
  type Mapping,
  unallocatedExtent,
  type WriteFlags,
  zeroExtent,
} from "@spindle/block";

/** One step of a write allocates at most this much, so that a huge request takes bounded memory. */
const STEP_BYTES_MAX = 4 * 1024 * 1024;

/** How the bytes of clusters are read and written where they do not stand in the file as they are. */
export interface ClusterCipher {
  read(file: BlockNode, place: ClusterPlace, vector: IoVector): Co<void>;
  write(file: BlockNode, place: ClusterPlace, vector: IoVector): Co<void>;
}

/** Where bytes stand: on the disk, and in the image file. */
export interface ClusterPlace {
  readonly guestOffset: number;
  readonly hostOffset: number;
}

export class ClusterImage {
  readonly #map: ClusterMap;
  readonly #children: Children;
  readonly #cipher: ClusterCipher | null;
  readonly #length: () => number;
  /** The image file is at least this long. */
  #fileLength = 0;

  /**
   * @param length the length of the disk in bytes, as it is now
   * @param cipher of an image whose data is encrypted: what stands in its file is then no data of the disk
   */
  constructor(map: ClusterMap, children: Children, length: () => number, cipher: ClusterCipher | null = null) {
    this.#map = map;
    this.#children = children;
    this.#cipher = cipher;
    this.#length = length;
  }

  *read(offset: number, vector: IoVector): Co<void> {
    for (let done = 0; done < vector.length; ) {
      const mapping = yield* this.#map.lookup(offset + done, vector.length - done);
      const length = mapping.kind === "compressed" ? this.#toClusterEnd(offset + done, mapping.length) : mapping.length;
      yield* this.#readRun(mapping, offset + done, vector.slice(done, length));
      done += length;
    }
  }

  /** Whether every cluster of the range is there and may be overwritten. */
  *writesInPlace(offset: number, length: number): Co<boolean> {
    for (let done = 0; done < length; ) {
      const mapping = yield* this.#map.lookup(offset + done, length - done);
      if (!isWritable(mapping)) return false;
      done += mapping.length;
    }
    return true;
  }

  /** @param placed called when the last of the bytes has its place, as {@link WriteFlags.placed} */
  *write(offset: number, vector: IoVector, placed?: () => void): Co<void> {
    /** Where in the file the part before ends. */
    let behind: number | undefined;
    for (let done = 0; done < vector.length; ) {
      const mapping = yield* this.#map.lookup(offset + done, vector.length - done);
      if (isWritable(mapping) && !(yield* this.#goesOn(mapping, offset + done, vector.length - done))) {
        this.#checkPresent("write", mapping.hostOffset, mapping.length);
        if (this.#file.driver.debugEvent !== undefined) yield* this.#file.tell("write_aio");
        if (done + mapping.length === vector.length) placed?.();
        const place = { guestOffset: offset + done, hostOffset: mapping.hostOffset };
        yield* this.#writeFile(place, vector.slice(done, mapping.length));
        done += mapping.length;
        behind = mapping.hostOffset + mapping.length;
      } else {
        const rest = vector.slice(done, vector.length - done);
        const { length, hostEnd } = yield* this.#writeNew(offset + done, rest, behind, (written) => {
          if (done + written === vector.length) placed?.();
        });
        done += length;
        behind = hostEnd;
      }
    }
  }

  /** Whether behind these clusters there is room of the disk's own that has no data yet: both are written in one piece. */
  *#goesOn(
    { hostOffset, length }: Mapping & { readonly hostOffset: number },
    offset: number,
    wanted: number,
  ): Co<boolean> {
    if (length >= wanted) return false;
    const next = yield* this.#map.lookup(offset + length, wanted - length);
    return next.kind !== "data" && next.hostOffset === hostOffset + length;
  }

  /** Afterwards the range reads as zeros: whole subclusters without storing them, parts of them by writing zeros. */
  *writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    const { subclusterSize } = this.#map;
    const end = offset + length;
    const firstWhole = alignUp(offset, subclusterSize);
    // The last part of the disk counts as whole when the range reaches the disk's end.
    const lastWhole = end === this.#length() ? alignUp(end, subclusterSize) : alignDown(end, subclusterSize);
    if (firstWhole > lastWhole) return yield* this.#zeroPart(offset, length, flags);
    if (firstWhole > offset) yield* this.#zeroPart(offset, firstWhole - offset, flags);
    if (lastWhole > firstWhole) yield* this.#zeroWhole(firstWhole, lastWhole, flags);
    if (end > lastWhole) yield* this.#zeroPart(lastWhole, end - lastWhole, flags);
  }

  /** Gives whole clusters back; parts of clusters are left as they are. */
  *discard(offset: number, length: number): Co<void> {
    const { clusterSize } = this.#map;
    const start = alignUp(offset, clusterSize);
    const reachesEnd = offset + length === this.#length();
    const end = reachesEnd ? alignUp(offset + length, clusterSize) : alignDown(offset + length, clusterSize);
    if (end > start) yield* this.#map.discard(start, end - start);
  }

  *blockStatus(offset: number, length: number): Co<Extent> {
    const mapping = yield* this.#map.lookup(offset, length);
    switch (mapping.kind) {
      case "unallocated":
        return { ...unallocatedExtent(mapping.length), ...this.#placeOf(mapping) };
      case "zero":
        return { ...zeroExtent(mapping.length), ...this.#placeOf(mapping) };
      case "compressed":
        return { length: mapping.length, allocated: true, zero: false, data: true, compressed: true };
      default: {
        const place = this.#placeOf(mapping);
        return { length: mapping.length, allocated: true, zero: false, data: true, compressed: false, ...place };
      }
    }
  }

  /** What has no data may have space, too, that is kept for when it is written. What is encrypted is for nobody else to read. */
  #placeOf({ hostOffset }: Mapping): Pick<Extent, "hostOffset" | "file"> {
    return hostOffset === undefined || this.#cipher !== null ? {} : { hostOffset, file: this.#file };
  }

  /** Where the data stands. */
  get #file(): BlockNode {
    return this.#children.data ?? (this.#children.file as BlockNode);
  }

  *#readRun(mapping: Mapping, offset: number, vector: IoVector): Co<void> {
    switch (mapping.kind) {
      case "data":
        return yield* this.#readFile({ guestOffset: offset, hostOffset: mapping.hostOffset as number }, vector);
      case "compressed":
        return yield* this.#map.readCompressed(offset, vector);
      case "zero":
        return vector.fill(0);
      default:
        return yield* this.#readBacking(offset, vector);
    }
  }

  /** The file may end inside of its last cluster: zeros follow. */
  *#readFile(place: ClusterPlace, vector: IoVector): Co<void> {
    const { hostOffset } = place;
    this.#checkPresent("read", hostOffset, vector.length);
    if (this.#cipher !== null) return yield* this.#cipher.read(this.#file, place, vector);
    const present = Math.max(0, Math.min(vector.length, this.#fileLength - hostOffset));
    if (this.#file.driver.debugEvent !== undefined) yield* this.#file.tell("read_aio");
    if (present > 0) yield* this.#file.read(hostOffset, vector.slice(0, present));
    if (present < vector.length) vector.slice(present, vector.length - present).fill(0);
  }

  #writeFile(place: ClusterPlace, vector: IoVector): Co<void> {
    if (this.#cipher !== null) return this.#cipher.write(this.#file, place, vector);
    return this.#file.write(place.hostOffset, vector);
  }

  /** What is written has been there since its cluster was reserved: no image lets the file grow without bounds. */
  #checkPresent(operation: string, offset: number, length: number): void {
    // Asking for the file's length costs a system call, and image files only get longer.
    if (offset + length > this.#fileLength) this.#fileLength = this.#file.length;
    // A file of data alone may be of any length: nothing that stands in it is further than the disk is long.
    if (this.#children.data !== undefined || offset + length <= alignUp(this.#fileLength, this.#map.clusterSize))
      return;
    const context = { node: this.#file.name, operation, offset, length, corrupt: true };
    throw new BlockError("EIO", `a cluster stands beyond the end of the image file, at ${offset}`, context);
  }

  /** Compressed clusters are looked up one by one: a write may replace the next while one is being read. */
  #toClusterEnd(offset: number, length: number): number {
    return Math.min(length, this.#map.clusterSize - (offset % this.#map.clusterSize));
  }

  /** What shows through from below; beyond the end of a shorter backing file there are zeros. */
  *#readBacking(offset: number, vector: IoVector): Co<void> {
    const { backing } = this.#children;
    const present = backing === null ? 0 : Math.max(0, Math.min(vector.length, backing.length - offset));
    if (backing !== null && present > 0) {
      if (this.#file.driver.debugEvent !== undefined) yield* this.#file.tell("read_backing_aio");
      yield* backing.read(offset, vector.slice(0, present));
    }
    if (present < vector.length) vector.slice(present, vector.length - present).fill(0);
  }

  /**
   * Writes to what is not there or is shared: finds room for it, fills what the request leaves of the room with what is
   * read there, and lets the map point at it.
   * @param behind where in the file the part before ends
   * @param placed told how many bytes of the vector have their place, before they are written
   * @returns how many bytes of the vector were written, and where their room ends
   */
  *#writeNew(
    offset: number,
    vector: IoVector,
    behind: number | undefined,
    placed: (length: number) => void,
  ): Co<{ length: number; hostEnd: number }> {
    const stepMax = STEP_BYTES_MAX - (offset % this.#map.clusterSize);
    const allocation = yield* this.#map.allocate(offset, Math.min(vector.length, stepMax), false, behind);
    try {
      const { guestOffset, length, hostOffset, reserved } = allocation;
      const written = Math.min(vector.length, guestOffset + length - offset);
      placed(written);
      const whole = yield* this.#surround(guestOffset, offset, vector.slice(0, written), guestOffset + length);
      if (!reserved) this.#checkPresent("write", hostOffset, length);
      if (this.#file.driver.debugEvent !== undefined) yield* this.#tellOfNew(whole.length > written);
      yield* this.#writeFile({ guestOffset, hostOffset }, whole);
      yield* this.#map.publish(allocation);
      return { length: written, hostEnd: hostOffset + length };
    } catch (error) {
      yield* this.#map.release(allocation);
      throw error;
    }
  }

  *#tellOfNew(isPadded: boolean): Co<void> {
    yield* this.#file.tell("write_aio");
    if (isPadded) yield* this.#file.tell("cow_write");
  }

  /** Puts what is read around the new bytes, up to the ends of their room, around them. */
  *#surround(start: number, offset: number, vector: IoVector, end: number): Co<IoVector> {
    const head = new Uint8Array(offset - start);
    const tail = new Uint8Array(end - offset - vector.length);
    if (head.length + tail.length > 0) yield* this.#file.tell("cow_read");
    if (head.length > 0) yield* this.read(start, IoVector.of(head));
    const tailStart = offset + vector.length;
    // The disk may end inside of its last cluster.
    const inside = Math.max(0, Math.min(tail.length, this.#length() - tailStart));
    if (inside > 0) yield* this.read(tailStart, IoVector.of(tail.subarray(0, inside)));
    return new IoVector([head, ...vector.buffers, tail].filter((part) => part.length > 0));
  }

  /** Whole subclusters, of which the first cluster and the last may have only parts. As in QEMU, all are written or none. */
  *#zeroWhole(start: number, end: number, flags: WriteFlags): Co<void> {
    const { clusterSize } = this.#map;
    const reachesEnd = end >= this.#length();
    for (let at = start; at < end; ) {
      const wholeEnd = reachesEnd ? alignUp(end, clusterSize) : alignDown(end, clusterSize);
      const isWhole = at % clusterSize === 0 && at < wholeEnd;
      const to = isWhole ? wholeEnd : Math.min(alignUp(at + 1, clusterSize), end);
      const isDone = yield* this.#map.zero(at, to - at, flags.mayUnmap === true);
      if (!isDone) return yield* this.#storeZeros(start, Math.min(end, this.#length()) - start, flags);
      at = to;
    }
  }

  /** Part of one subcluster: all of it becomes zeros when the rest reads as zeros too and nothing is stored for it. */
  *#zeroPart(offset: number, length: number, flags: WriteFlags): Co<void> {
    const { subclusterSize } = this.#map;
    const { kind } = yield* this.#map.lookup(offset, length);
    const start = alignDown(offset, subclusterSize);
    const end = Math.min(start + subclusterSize, this.#length());
    const isEmpty =
      kind === "zero" ||
      (kind === "unallocated" &&
        (yield* this.#showsZeros(start, offset)) &&
        (yield* this.#showsZeros(offset + length, end)));
    if (isEmpty && (yield* this.#map.zero(start, subclusterSize, flags.mayUnmap === true))) return;
    yield* this.#storeZeros(offset, length, flags);
  }

  /** Whether what shows through from below is known to be zeros. */
  *#showsZeros(start: number, end: number): Co<boolean> {
    const { backing } = this.#children;
    if (backing === null) return true;
    for (let at = start; at < Math.min(end, backing.length); ) {
      const { zero, length } = yield* chainStatus(backing, null, at, Math.min(end, backing.length) - at);
      if (!zero) return false;
      at += length;
    }
    return true;
  }

  *#storeZeros(offset: number, length: number, { noFallback }: WriteFlags): Co<void> {
    if (noFallback === true) throw new BlockError("ENOTSUP", "this cannot be zeros without being written");
    for (let done = 0; done < length; ) {
      const step = Math.min(length - done, STEP_BYTES_MAX);
      yield* this.write(offset + done, IoVector.of(new Uint8Array(step)));
      done += step;
    }
  }
}

function isWritable(mapping: Mapping): mapping is Mapping & { readonly hostOffset: number } {
  if (mapping.kind !== "data" || mapping.writable !== true) return false;
  assert(mapping.hostOffset !== undefined, "a data mapping has a place");
  return true;
}
