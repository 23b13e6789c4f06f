import type { QueueFault } from "./queue-fault.ts";

const LARGEST_CHAIN_BYTES = 2 ** 32;

/**
 * One descriptor chain in private memory: what the device works on instead of the guest's words, which may change under
 * its hands. A queue fills the same object again for every chain.
 */
export class DescriptorChain {
  /** What gives the chain back: the index of its first descriptor, or in a packed ring its buffer id. */
  head = 0;
  /** Descriptors that the chain takes of a packed ring; 1 in a split one, where nobody needs to know. */
  slots = 1;
  /** Buffers of the chain; the first `readableCount` are device-readable, the others device-writable. */
  count = 0;
  readableCount = 0;
  /** Bytes of the device-readable buffers. */
  readableLength = 0;
  /** Bytes of the device-writable buffers. */
  writableLength = 0;
  /** Guest-physical addresses; those above 2^53 - 1 stand as that number, which is no memory. */
  readonly addresses: Float64Array;
  /** Bytes, at least 1: empty buffers are left out. */
  readonly lengths: Float64Array;

  constructor(capacity: number) {
    this.addresses = new Float64Array(capacity);
    this.lengths = new Float64Array(capacity);
  }

  get capacity(): number {
    return this.addresses.length;
  }

  reset(head: number): void {
    this.head = head;
    this.slots = 1;
    this.count = 0;
    this.readableCount = 0;
    this.readableLength = 0;
    this.writableLength = 0;
  }

  /** Appends a buffer, unless it is empty. @returns what rule of a chain that would break. */
  append(address: number, length: number, writable: boolean): QueueFault | undefined {
    if (length === 0) return undefined;
    if (!writable && this.count > this.readableCount) return "a device-readable buffer follows a device-writable one";
    if (this.count === this.capacity) return "a chain is longer than its table or the device's limit, or loops";
    if (this.readableLength + this.writableLength + length > LARGEST_CHAIN_BYTES)
      return "a chain describes more than 2^32 bytes";
    this.addresses[this.count] = address;
    this.lengths[this.count] = length;
    this.count += 1;
    if (writable) this.writableLength += length;
    else {
      this.readableCount = this.count;
      this.readableLength += length;
    }
    return undefined;
  }
}
