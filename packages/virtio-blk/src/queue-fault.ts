/** Why a virtqueue was latched as broken, in an order that is the same on every thread. */
export const QUEUE_FAULTS = [
  "the rings are not valid guest memory",
  "the available index moved by more than the queue's size",
  "a chain's head is outside of the descriptor table",
  "a chain's next is outside of its table",
  "a chain is longer than its table or the device's limit, or loops",
  "a chain describes more than 2^32 bytes",
  "a device-readable buffer follows a device-writable one",
  "an indirect descriptor without the feature, inside a table, or with a next",
  "an indirect table is empty, not a multiple of 16 bytes, or not in memory",
  "a chain has no byte for the status",
  "a chain runs into descriptors that are not available",
  "more descriptors are available than the ring has",
] as const;

export type QueueFault = (typeof QUEUE_FAULTS)[number];
