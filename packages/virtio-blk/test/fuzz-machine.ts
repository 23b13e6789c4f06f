/** A device that runs inputs of the fuzzer, one after the other, and checks after each what must hold. */
import { until } from "@spindle/base";
import { DeviceState } from "../src/device-state.ts";
import { PackedDriverRing } from "../src/driver/packed-driver-ring.ts";
import { SplitDriverRing } from "../src/driver/split-driver-ring.ts";
import { ringFeatures } from "../src/features.ts";
import { VIRTQ_DESC_F_WRITE } from "../src/queue-layout.ts";
import type { FuzzCall, FuzzInput } from "./fuzz-input.ts";
import { OneThread } from "./one-thread.ts";

const QUEUE_SIZE = 32;
/** The most descriptors of a chain that keeps to the rules. */
const CHAIN_MAX = 3;
/** Bytes of the area where buffers are. */
const AREA_BYTES = 32_768;

/** What became of inputs. */
export interface FuzzCounts {
  /** Chains that the driver offered. */
  chains: number;
  /** Requests that the device executed. */
  executed: number;
  /** Times that the queue was latched. */
  latched: number;
  inputs: number;
}

export class FuzzMachine {
  readonly counts: FuzzCounts = { chains: 0, executed: 0, latched: 0, inputs: 0 };
  readonly #packed: boolean;
  readonly #guest: OneThread;
  readonly #state: DeviceState;
  #ring!: SplitDriverRing | PackedDriverRing;
  #inFlight = 0;
  #input!: FuzzInput;
  /** Of an honest driver: numbers of chains that are not in flight. */
  #free: number[] = [];

  constructor(packed: boolean, inOrder: boolean) {
    this.#packed = packed;
    const device = { packed, inOrder, werror: "enospc" as const };
    this.#guest = new OneThread({ queueSize: QUEUE_SIZE, dataBytes: 4096, device });
    this.#state = new DeviceState(this.#guest.device);
    const { disk } = this.#guest;
    for (const operation of ["read", "write", "writeZeroes", "discard", "flush"] as const) {
      const perform = disk[operation].bind(disk) as (...args: never[]) => ReturnType<typeof disk.flush>;
      const counted = (...args: never[]): ReturnType<typeof disk.flush> => this.#counted(perform(...args));
      disk[operation] = counted as never;
    }
  }

  get area(): { start: number; length: number } {
    return { start: this.#guest.spare, length: AREA_BYTES };
  }

  /** @throws when something does not hold that must. */
  run(input: FuzzInput): void {
    const guest = this.#guest;
    this.#input = input;
    this.#begin();
    for (const call of input.calls) {
      this.#perform(call);
      if (guest.served !== undefined && !guest.stopping)
        throw new Error(`the server ended: ${String(guest.served.error)}`);
      if (this.#state.queues[0]?.fault !== undefined) this.#recover();
      if (this.#inFlight > QUEUE_SIZE) throw new Error(`${this.#inFlight} requests are in flight`);
    }
    this.#end();
  }

  /** What a driver does whose device asks for a reset. */
  #recover(): void {
    if (this.#input.honest) throw new Error(`an honest driver's queue was latched: ${this.#state.queues[0]?.fault}`);
    this.counts.latched += 1;
    this.#begin();
  }

  #begin(): void {
    const guest = this.#guest;
    const { refused, memory } = this.#input;
    guest.disk.open = true;
    guest.disk.error = undefined;
    this.#state.resume();
    if (guest.served !== undefined) guest.serve();
    guest.start(refused);
    const { layout } = guest.plans[0]!;
    const features = ringFeatures(guest.guest.features);
    this.#ring = this.#packed
      ? new PackedDriverRing(guest.memory, layout, features)
      : new SplitDriverRing(guest.memory, layout, features, CHAIN_MAX);
    this.#free = Array.from({ length: Math.floor(QUEUE_SIZE / CHAIN_MAX) }, (_, id) => id);
    // The driver has made nothing available yet: indices and flags of descriptors stay as they were cleared.
    if (!this.#packed) fill(guest.bytes(layout.descriptorAddress, 16 * QUEUE_SIZE), memory);
    if (!this.#packed) fill(guest.bytes(layout.driverAddress + 4, 2 * QUEUE_SIZE), memory);
    fill(guest.bytes(guest.spare, AREA_BYTES), memory);
  }

  #perform(call: FuzzCall): void {
    const guest = this.#guest;
    const { disk } = guest;
    switch (call.call) {
      case "chain":
        if (this.#input.honest) this.#offerHonestly(call);
        else this.#offer(call);
        break;
      case "offer":
        this.counts.chains += 1;
        if (this.#ring instanceof SplitDriverRing) this.#ring.offer(call.head);
        this.#ring.publish();
        break;
      case "index":
        if (this.#ring instanceof SplitDriverRing) this.#ring.setAvailableIndex(call.value);
        else
          guest.memory
            .window(guest.plans[0]!.layout.descriptorAddress, 16 * QUEUE_SIZE)!
            .storeU16(16 * (call.value % QUEUE_SIZE) + 14, call.value);
        break;
      case "scribble":
        this.#scribble(call.area, call.at, call.value);
        break;
      case "header":
        guest.header(guest.spare + call.at, call.type, call.sector);
        break;
      case "disk":
        disk.open = call.open;
        disk.error = call.error;
        break;
      case "register":
        guest.registers.write(call.offset, call.value);
        break;
      case "kick":
        guest.registers.write(0x50, 0);
        break;
      case "poll":
        guest.poll();
        break;
      case "collect":
        this.#ring.requestInterrupts();
        this.#collect();
        break;
      case "resume":
        this.#state.resume();
        break;
      case "reset":
        if (this.#input.honest) this.#begin();
        else guest.registers.write(0x70, 0);
        break;
      case "serve":
        this.#serveAgain();
        break;
      default:
        call satisfies never;
    }
  }

  #offer({ place, descriptors }: FuzzCall & { call: "chain" }): void {
    this.counts.chains += 1;
    const ring = this.#ring;
    if (ring instanceof SplitDriverRing) {
      descriptors.forEach((descriptor, index) => {
        ring.setDescriptor((place + index) % QUEUE_SIZE, descriptor);
      });
      ring.offer(place);
    } else for (const { id, flags, ...buffer } of descriptors) ring.offerDescriptor(id, buffer, flags & ~0x8080);
    ring.publish();
  }

  /** Offers a chain when there is room for it. */
  #offerHonestly({ descriptors }: FuzzCall & { call: "chain" }): void {
    this.#collect();
    const id = this.#free.pop();
    if (id === undefined) return;
    this.counts.chains += 1;
    const chain = descriptors.map(({ address, length, flags }) => ({
      address,
      length,
      flags: flags & VIRTQ_DESC_F_WRITE,
    }));
    this.#ring.offerChain(id, chain);
    this.#ring.publish();
  }

  #collect(): void {
    for (let count = 0; count < QUEUE_SIZE; count++) {
      const used = this.#ring.takeUsed();
      if (used === undefined) return;
      if (!this.#input.honest) continue;
      if (this.#free.includes(used.id)) throw new Error(`chain ${used.id} came back that was not offered`);
      this.#free.push(used.id);
    }
  }

  #scribble(area: number, at: number, value: number): void {
    const guest = this.#guest;
    const { layout } = guest.plans[0]!;
    const [start, length] = [
      [layout.descriptorAddress, 16 * QUEUE_SIZE],
      [layout.driverAddress, this.#packed ? 4 : 6 + 2 * QUEUE_SIZE],
      [layout.deviceAddress, this.#packed ? 4 : 6 + 8 * QUEUE_SIZE],
      [guest.spare, AREA_BYTES],
    ][area] as [number, number];
    guest.bytes(start + (at % length), 1)[0] = value;
  }

  /** Ends the server, as far as what is in flight lets it, and lets another one go on. */
  #serveAgain(): void {
    const guest = this.#guest;
    guest.disk.open = true;
    guest.stopping = true;
    guest.poll();
    if (guest.served === undefined) throw new Error("the server does not end");
    guest.serve();
  }

  #end(): void {
    const guest = this.#guest;
    this.counts.inputs += 1;
    guest.disk.open = true;
    guest.disk.error = undefined;
    this.#state.resume();
    guest.poll();
    if (this.#inFlight !== 0) throw new Error(`${this.#inFlight} requests have not ended`);
    this.#collect();
    const missing = Math.floor(QUEUE_SIZE / CHAIN_MAX) - this.#free.length;
    if (this.#input.honest && missing > 0) throw new Error(`${missing} chains have not come back`);
    let looks = 0;
    try {
      guest.runner.run(until(() => ++looks > 50));
    } catch (error) {
      if (String(error).includes("deadlock")) return;
      throw error;
    }
    throw new Error("the device does not come to rest");
  }

  *#counted(co: ReturnType<OneThread["disk"]["flush"]>): ReturnType<OneThread["disk"]["flush"]> {
    this.counts.executed += 1;
    this.#inFlight += 1;
    try {
      yield* co;
    } finally {
      this.#inFlight -= 1;
    }
  }
}

function fill(target: Uint8Array, pattern: Uint8Array): void {
  for (let at = 0; at < target.length; at += pattern.length) target.set(pattern.subarray(0, target.length - at), at);
}
