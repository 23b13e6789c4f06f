/** What all transports do when the driver says that a queue is set up. */
import type { DeviceState } from "./device-state.ts";
import { ringFeatures } from "./features.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { openVirtqueue } from "./open-virtqueue.ts";
import type { QueueState } from "./queue-state.ts";
import { firstPosition } from "./virtqueue.ts";

/** Lets a stopped queue run, unless its layout is not valid: the driver sees that the queue did not become ready. */
export function makeReady(state: DeviceState, memory: GuestMemory, queue: QueueState): void {
  const { layout } = queue;
  if (!queue.stopped || layout.size > state.handle.queueSizeMax) return;
  const features = ringFeatures(state.driverFeatures);
  if (openVirtqueue(memory, layout, features) === undefined) return;
  queue.enable(firstPosition(features.packed));
  state.kick(queue);
}

/** Stops a queue; it is over when the queue says so. */
export function stopQueue(state: DeviceState, queue: QueueState): void {
  queue.disable();
  state.kick(queue);
}
