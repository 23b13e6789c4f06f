/** A guest, a device and a disk on one thread, in one runner that never sleeps: what can go on goes on in `poll`. */
import { SyncRunner } from "@spindle/base";
import { type Thread, ThreadTable } from "@spindle/shared-memory";
import { createVirtioBlk, type VirtioBlkHandle, type VirtioBlkOptions } from "../src/create-device.ts";
import { VirtioBlkDevice } from "../src/device.ts";
import { DeviceState } from "../src/device-state.ts";
import { type GuestHandle, type GuestQueuePlan, planGuest, startGuest } from "../src/driver/guest-driver.ts";
import { GuestQueue } from "../src/driver/guest-queue.ts";
import { PackedDriverRing } from "../src/driver/packed-driver-ring.ts";
import { SplitDriverRing } from "../src/driver/split-driver-ring.ts";
import { ringFeatures } from "../src/features.ts";
import { GuestMemory, type GuestMemoryHandle } from "../src/guest-memory.ts";
import { MmioTransport } from "../src/mmio.ts";
import { QueueServer } from "../src/queue-worker.ts";
import type { Registers } from "../src/registers.ts";
import { ServedQueue } from "../src/served-queue.ts";
import { MemoryDisk } from "./memory-disk.ts";

export interface OneThreadOptions {
  readonly queueCount?: number;
  readonly queueSize?: number;
  readonly dataBytes?: number;
  /** Feature bits 0 to 31 that the driver does without. */
  readonly refused?: number;
  readonly diskLength?: number;
  readonly readOnly?: boolean;
  readonly device?: Partial<VirtioBlkOptions>;
  readonly memory?: GuestMemoryHandle;
  readonly base?: number;
  /** How the guest reaches the device's registers; mmio when left out. Legacy drivers have their rings in one piece. */
  readonly transport?: (device: VirtioBlkHandle) => Registers;
  readonly legacy?: boolean;
}

/** Guest memory behind the plan that tests may use as they like. */
export const SPARE_BYTES = 1024 * 1024;

export class OneThread {
  readonly disk: MemoryDisk;
  readonly device: VirtioBlkHandle;
  readonly memory: GuestMemory;
  readonly registers: Registers;
  readonly runner: SyncRunner = new SyncRunner({ now: () => 0 });
  readonly plans: GuestQueuePlan[];
  /** Address of SPARE_BYTES bytes that nobody uses. */
  readonly spare: number;
  readonly thread: Thread;
  readonly #refused: number;
  stopping = false;
  /** How serving ended. */
  served: { error: unknown } | undefined;
  guest!: GuestHandle;

  constructor(options: OneThreadOptions = {}) {
    const { queueCount = 1, queueSize = 16, base = 0 } = options;
    const plan = planGuest({
      queueCount,
      queueSize,
      dataBytes: options.dataBytes ?? 8192,
      base,
      legacy: options.legacy === true,
    });
    this.plans = plan.queues;
    this.spare = base + plan.length;
    const memory = options.memory ?? GuestMemory.create(plan.length + SPARE_BYTES, base);
    this.memory = new GuestMemory(memory);
    const threads = ThreadTable.create();
    this.thread = new ThreadTable(threads).attach();
    this.disk = new MemoryDisk(options.diskLength ?? 1024 * 1024);
    this.disk.readOnly = options.readOnly === true;
    this.device = createVirtioBlk({
      memory,
      threads,
      diskLength: this.disk.length,
      readOnly: this.disk.readOnly,
      queueCount,
      serial: "spindle-0",
      ...options.device,
    });
    this.registers = options.transport?.(this.device) ?? new MmioTransport(this.device);
    this.#refused = options.refused ?? 0;
    this.serve();
    this.start();
  }

  serve(): void {
    this.stopping = false;
    this.served = undefined;
    const queues = this.plans.map((plan) => plan.index);
    const server = new QueueServer({
      device: this.device,
      queues,
      disk: this.disk,
      thread: this.thread,
      runner: this.runner,
    });
    this.runner.spawn(
      server.serve(() => this.stopping),
      (error) => {
        this.served = { error };
      },
    );
  }

  /** Serves the first queue by hand from now on, through `memory`: the test calls `poll`. */
  serveByHand(memory: GuestMemory): ServedQueue {
    this.stopping = true;
    this.poll();
    const state = new DeviceState(this.device);
    const queue = state.queues[0] as DeviceState["queues"][number];
    queue.claim(this.thread.index);
    const served = new ServedQueue({
      state,
      queue,
      memory,
      device: new VirtioBlkDevice(this.disk, this.device),
      runner: new SyncRunner({ now: () => 0 }),
      failed: (error) => {
        throw error;
      },
    });
    served.poll(true);
    return served;
  }

  /** Resets the device and brings it up. */
  start(refused: number = this.#refused): void {
    this.guest = this.runner.run(startGuest(this.registers, this.device, this.plans, { low: refused }));
  }

  /** Lets everything go on that can. */
  poll(): void {
    this.runner.poll();
  }

  queue(index = 0): GuestQueue {
    return new GuestQueue(this.guest, index, this.thread, this.registers);
  }

  ring(index = 0): SplitDriverRing {
    const plan = this.plans[index] as GuestQueuePlan;
    return new SplitDriverRing(this.memory, plan.layout, ringFeatures(this.guest.features));
  }

  packedRing(index = 0): PackedDriverRing {
    const plan = this.plans[index] as GuestQueuePlan;
    return new PackedDriverRing(this.memory, plan.layout, ringFeatures(this.guest.features));
  }

  bytes(address: number, length: number): Uint8Array {
    const views: Uint8Array[] = [];
    this.memory.translate(address, length, views);
    return views[0] ?? new Uint8Array(0);
  }

  /** Writes a request header into guest memory. */
  header(address: number, type: number, sector: number | bigint = 0): void {
    const view = new DataView(new ArrayBuffer(16));
    view.setUint32(0, type, true);
    view.setBigUint64(8, BigInt(sector), true);
    this.bytes(address, 16).set(new Uint8Array(view.buffer));
  }
}

/** Bytes that differ from place to place. */
export function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8) * 13 + seed * 31 + 1) & 0xff);
}
