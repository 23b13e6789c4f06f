/** Opens the rings of a queue in the form that was negotiated. */
import type { GuestMemory } from "./guest-memory.ts";
import { PackedQueue } from "./packed-queue.ts";
import type { QueueLayout } from "./queue-layout.ts";
import { SplitQueue } from "./split-queue.ts";
import type { QueuePosition, RingFeatures, Virtqueue } from "./virtqueue.ts";

/** Opens a queue where the driver put it, to go on from `position`; undefined when the layout is not valid. */
export function openVirtqueue(
  memory: GuestMemory,
  layout: QueueLayout,
  features: RingFeatures,
  position?: QueuePosition,
): Virtqueue | undefined {
  const form = features.packed ? PackedQueue : SplitQueue;
  return form.open(memory, layout, features, position);
}
