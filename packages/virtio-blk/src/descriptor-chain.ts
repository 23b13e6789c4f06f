/**
 * One descriptor chain in private memory: what the device works on instead of the guest's words, which may change under
 * its hands. A queue fills the same object again for every chain.
 */
export class DescriptorChain {
  /** Index of the first descriptor: what the used ring gives back. */
  head = 0;
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
    this.count = 0;
    this.readableCount = 0;
    this.readableLength = 0;
    this.writableLength = 0;
  }

  /** Appends a buffer. The caller has checked that there is room and that readable ones come first. */
  append(address: number, length: number, writable: boolean): void {
    this.addresses[this.count] = address;
    this.lengths[this.count] = length;
    this.count += 1;
    if (writable) this.writableLength += length;
    else {
      this.readableCount = this.count;
      this.readableLength += length;
    }
  }
}
