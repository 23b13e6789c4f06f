/**
 * Random rings: memory full of descriptors that are half right, and a list of what the guest does with them. After every
 * chain the device has answered, latched the queue, or holds it in flight; it never throws, and it keeps to its bounds.
 */
import { SeededRandom } from "@spindle/base";
import { expect, test } from "vitest";
import { DeviceState } from "../src/device-state.ts";
import type { SplitDriverRing } from "../src/driver/split-driver-ring.ts";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from "../src/features.ts";
import { OneThread } from "./one-thread.ts";

const CHAINS = 20_000;
const QUEUE_SIZE = 32;

/** A number as fuzzers like them: often small, often at an edge, sometimes anything. */
function edgy(random: SeededRandom): number {
  const edges = [0, 1, 15, 16, 17, 32, 48, 511, 512, 513, 4096, 65_535, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];
  if (random.chance(0.4)) return random.pick(edges);
  return random.chance(0.7) ? random.below(8192) : random.u32();
}

function address(random: SeededRandom, guest: OneThread): bigint {
  if (random.chance(0.8)) return BigInt(guest.spare + random.below(16_384));
  if (random.chance(0.3)) return BigInt(random.below(guest.spare));
  return random.pick([0n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 16n, 2n ** 64n - 1n]) + BigInt(random.below(2));
}

function scribbleDescriptors(random: SeededRandom, guest: OneThread, ring: SplitDriverRing): void {
  for (let count = 1 + random.below(8); count > 0; count--) {
    ring.setDescriptor(random.below(QUEUE_SIZE), {
      address: address(random, guest) % 2n ** 64n,
      length: edgy(random),
      flags: random.chance(0.8) ? random.below(8) : random.below(65_536),
      next: random.chance(0.9) ? random.below(QUEUE_SIZE) : random.below(65_536),
    });
  }
}

/** A request that could be right, with one thing wrong now and then. */
function plausible(random: SeededRandom, guest: OneThread, ring: SplitDriverRing): number {
  const head = random.below(QUEUE_SIZE - 3);
  const type = random.pick([0, 1, 4, 8, 11, 13, random.below(32)]);
  const header = guest.spare + 16 * random.below(64);
  guest.header(header, type, random.chance(0.8) ? random.below(2048) : BigInt(random.u32()) << 32n);
  const writable = type === 0 || type === 8 ? 2 : 0;
  ring.setDescriptor(head, {
    address: header,
    length: random.chance(0.9) ? 16 : edgy(random),
    flags: 1,
    next: head + 1,
  });
  ring.setDescriptor(head + 1, {
    address: random.chance(0.9) ? guest.spare + 4096 : address(random, guest) % 2n ** 64n,
    length: type >= 11 ? 16 : random.chance(0.9) ? 512 * random.below(9) : edgy(random),
    flags: random.chance(0.95) ? 1 | writable : random.below(8),
    next: head + 2,
  });
  ring.setDescriptor(head + 2, {
    address: guest.spare + 3000,
    length: 1,
    flags: random.chance(0.95) ? 2 : random.below(8),
  });
  return head;
}

function scribbleMemory(random: SeededRandom, guest: OneThread): void {
  const bytes = guest.bytes(guest.spare, 16_384);
  for (let count = random.below(64); count > 0; count--) bytes[random.below(bytes.length)] = random.u32() & 0xff;
}

test.each([1, 2, 3, 4])(`seed %i: ${CHAINS / 4} chains are answered or latch the queue`, (seed) => {
  const random = new SeededRandom(seed);
  const guest = new OneThread({ queueSize: QUEUE_SIZE, dataBytes: 4096 });
  const state = new DeviceState(guest.device);
  let ring = guest.ring();
  let offered = 0;
  let answered = 0;
  let latched = 0;
  for (let chain = 0; chain < CHAINS / 4; chain++) {
    let head = random.below(QUEUE_SIZE);
    if (random.chance(0.7)) head = plausible(random, guest, ring);
    else scribbleDescriptors(random, guest, ring);
    if (random.chance(0.1)) scribbleMemory(random, guest);
    guest.disk.open = random.chance(0.8);
    guest.disk.error = random.chance(0.1) ? "EIO" : undefined;
    if (random.chance(0.01)) ring.setAvailableIndex(random.below(65_536));
    else {
      ring.offer(random.chance(0.99) ? head : random.below(65_536));
      ring.publish();
      offered += 1;
    }
    guest.poll();
    for (let used = ring.takeUsed(); used !== undefined; used = ring.takeUsed()) {
      answered += 1;
      expect(used.id).toBeLessThan(QUEUE_SIZE);
    }
    expect(guest.served).toBeUndefined();
    const broken = state.queues[0]?.fault !== undefined;
    if (!broken && chain % 500 !== 499) continue;
    // What waited for the disk ends, and then nothing is owed.
    guest.disk.open = true;
    guest.poll();
    while (ring.takeUsed() !== undefined) answered += 1;
    if (broken) latched += 1;
    else expect(answered).toBe(offered);
    guest.start(random.pick([0, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC]));
    ring = guest.ring();
    offered = 0;
    answered = 0;
  }
  expect(latched).toBeGreaterThan(50);
});
