/** The context of the requests of one queue, from what was negotiated to the next reset. */
import { isWriteback } from "./cache-mode.ts";
import type { DeviceState } from "./device-state.ts";
import { type FeatureBits, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES } from "./features.ts";
import { actionOf, type ErrorAction, type IoErrorReport } from "./io-error.ts";
import type { QueueState } from "./queue-state.ts";
import type { RequestContext } from "./request-context.ts";

export class QueueContext implements RequestContext {
  readonly discard: boolean;
  readonly writeZeroes: boolean;
  /** The queue's server ends. */
  ending = false;
  resumable = false;
  readonly #features: FeatureBits;
  readonly #state: DeviceState;
  readonly #queue: QueueState;
  readonly #epoch: number;

  constructor(state: DeviceState, queue: QueueState) {
    this.#features = state.driverFeatures;
    const { low } = this.#features;
    this.discard = (low & VIRTIO_BLK_F_DISCARD) !== 0;
    this.writeZeroes = (low & VIRTIO_BLK_F_WRITE_ZEROES) !== 0;
    this.#state = state;
    this.#queue = queue;
    this.#epoch = queue.epoch;
  }

  get writesDurable(): boolean {
    return !isWriteback(this.#features, true, this.#state.cacheChoice);
  }

  get stopped(): boolean {
    return this.#state.stopped;
  }

  get abandoned(): boolean {
    return this.ending || this.#queue.epoch !== this.#epoch;
  }

  failed(error: Omit<IoErrorReport, "queue" | "missed" | "nospace" | "action">): ErrorAction {
    const { rerror, werror } = this.#state.handle;
    const action = actionOf(error.operation === "read" ? rerror : werror, error.reason);
    this.#state.ioFailed(this.#queue, { ...error, action });
    return action;
  }
}
