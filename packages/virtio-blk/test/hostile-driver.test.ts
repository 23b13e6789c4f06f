/**
 * Hundreds of chains and rings of drivers that mean harm, on split and packed rings, directly and through tables. Each
 * ends in the answer that the model says, or with the queue left alone; the process lives, the other queue and another
 * disk go on, and when all is done there is nothing left to do.
 */
import { describe, expect, test } from "vitest";
import { VIRTIO_F_INDIRECT_DESC } from "../src/features.ts";
import type { QueueFault } from "../src/queue-fault.ts";
import { type CaseMemory, expectedOutcome, type HostileBuffer, hostileChains } from "./hostile-cases.ts";
import { FORMS, HostileRig, ID, INDIRECT, NEXT, SIZE, WRITE } from "./hostile-rig.ts";
import { pattern } from "./one-thread.ts";

const DISK_SECTORS = 2048n;

describe.each(FORMS)("on a %s ring", (_, packed) => {
  const chains = hostileChains(new HostileRig(packed).memory);

  test.each(chains)("$name", (chain) => {
    for (const throughTable of [false, true]) {
      const rig = new HostileRig(packed);
      rig.header(chain.type, chain.sector);
      if (throughTable) rig.offerTable(chain.buffers);
      else rig.offer(chain.buffers);
      const expected = expectedOutcome(chain, rig.memory, DISK_SECTORS);
      if (expected === "latched") rig.expectLatched();
      else {
        rig.expectAnswered();
        const status = chain.buffers.filter(({ write, length }) => write === true && length > 0).at(-1)!;
        const [byte] = rig.guest.bytes(Number(status.address) + status.length - 1, 1);
        expect(byte).toBe(expected.status);
      }
      rig.finish();
    }
  });

  const good = ({ memory }: HostileRig): HostileBuffer[] => [
    { address: memory.header, length: 16 },
    { address: memory.data, length: 512, write: true },
    { address: memory.status, length: 1, write: true },
  ];

  test.each([0, 1, 8, 15, 17, 31, 33, 2 ** 31, 2 ** 32 - 16, 2 ** 32 - 1])("a table of %i bytes", (length) => {
    const rig = new HostileRig(packed);
    rig.descriptor(0, { address: rig.table(good(rig)), length }, INDIRECT);
    rig.publish();
    rig.expectLatched("an indirect table is empty, not a multiple of 16 bytes, or not in memory");
    rig.finish();
  });

  test.each<[string, (memory: CaseMemory) => bigint]>([
    ["in the hole", ({ holeStart }) => holeStart + 64n],
    ["into the hole", ({ holeStart }) => holeStart - 16n],
    ["over the border of two regions", ({ border }) => border - 16n],
    ["over the end of memory", ({ end }) => end - 16n],
    ["beyond memory", () => 2n ** 40n],
    ["at 2^63", () => 2n ** 63n],
    ["over the end of the address space", () => 2n ** 64n - 16n],
  ])("a table %s", (__, where) => {
    const rig = new HostileRig(packed);
    rig.descriptor(0, { address: where(rig.memory), length: 48 }, INDIRECT);
    rig.publish();
    rig.expectLatched("an indirect table is empty, not a multiple of 16 bytes, or not in memory");
    rig.finish();
  });

  test.each([1, 3, 7, 15])("a table at an address that is %i more than it should be", (more) => {
    const rig = new HostileRig(packed);
    const table = rig.table(good(rig));
    const bytes = rig.guest.bytes(Number(table), 48).slice();
    rig.guest.bytes(Number(table) + more, 48).set(bytes);
    rig.descriptor(0, { address: table + BigInt(more), length: 48 }, INDIRECT);
    rig.publish();
    rig.expectAnswered();
    rig.finish();
  });

  test("a table with the write flag, and with flags that there are not", () => {
    for (const flags of [WRITE, 8, 0x10, 0x40, 0x100, 0x4000]) {
      const rig = new HostileRig(packed);
      rig.descriptor(0, { address: rig.table(good(rig)), length: 48 }, INDIRECT | flags);
      rig.publish();
      rig.expectAnswered();
      rig.finish();
    }
  });

  const RULES: QueueFault = "an indirect descriptor without the feature, inside a table, or with a next";

  test("a table with a next", () => {
    const rig = new HostileRig(packed);
    rig.descriptor(0, { address: rig.table(good(rig)), length: 48 }, INDIRECT | NEXT);
    rig.descriptor(1, { address: rig.memory.status, length: 1 }, WRITE);
    rig.publish();
    rig.expectLatched(RULES);
    rig.finish();
  });

  test("a table that was not negotiated", () => {
    const rig = new HostileRig(packed, VIRTIO_F_INDIRECT_DESC);
    rig.offerTable(good(rig));
    rig.expectLatched(RULES);
    rig.finish();
  });

  test("a table behind plain descriptors: good on a split ring, and not on a packed one", () => {
    const rig = new HostileRig(packed);
    const [header, data, status] = good(rig) as [HostileBuffer, HostileBuffer, HostileBuffer];
    rig.descriptor(0, header, NEXT);
    rig.descriptor(1, { address: rig.table([data, status]), length: 32 }, INDIRECT);
    rig.publish();
    if (packed) rig.expectLatched(RULES);
    else rig.expectAnswered();
    rig.finish();
  });

  test("a table in a table: bad on a split ring, and a flag without meaning on a packed one", () => {
    const rig = new HostileRig(packed);
    rig.descriptor(0, { address: rig.table(good(rig), [INDIRECT]), length: 48 }, INDIRECT);
    rig.publish();
    if (packed) rig.expectAnswered();
    else rig.expectLatched(RULES);
    rig.finish();
  });

  test.each([257, 300, 1000, 4096])("a table of %i buffers", (count) => {
    const rig = new HostileRig(packed);
    rig.offerTable(Array.from({ length: count }, () => ({ address: rig.memory.header, length: 1 })));
    rig.expectLatched("a chain is longer than its table or the device's limit, or loops");
    rig.finish();
  });

  test("a table of more entries than the device takes, most of them empty", () => {
    const rig = new HostileRig(packed);
    const [header, , status] = good(rig) as [HostileBuffer, HostileBuffer, HostileBuffer];
    rig.offerTable([...new Array<HostileBuffer>(255).fill({ address: 0n, length: 0 }), header, status]);
    rig.expectLatched("a chain is longer than its table or the device's limit, or loops");
    rig.finish();
  });

  test("a table of as many buffers as the device takes", () => {
    const rig = new HostileRig(packed);
    const [header, data, status] = good(rig) as [HostileBuffer, HostileBuffer, HostileBuffer];
    rig.offerTable([header, ...new Array<HostileBuffer>(254).fill(data), status]);
    rig.expectAnswered();
    rig.finish();
  });

  test.each([1, 2, 3, 100])("data over the rings themselves, %i times", (count) => {
    const rig = new HostileRig(packed);
    const { layout } = rig.guest.plans[0]!;
    for (let round = 0; round < count && rig.fault === undefined; round++) {
      const [header, , status] = good(rig) as [HostileBuffer, HostileBuffer, HostileBuffer];
      const where = [layout.descriptorAddress, layout.driverAddress, layout.deviceAddress][round % 3] as number;
      rig.guest.disk.bytes.set(pattern(512, round));
      rig.offer([header, { address: BigInt(where), length: 512, write: true }, status]);
      // What the driver finds there may be anything, also without end.
      for (let used = 0; used < SIZE && rig.takeUsed() !== undefined; used++);
    }
    rig.finish();
  });

  test("the same chain as often as the queue holds, over and over", () => {
    const rig = new HostileRig(packed);
    for (let round = 0; round < 20; round++) {
      for (let count = 0; count < SIZE; count++) {
        if (packed) rig.packedRing.offerDescriptor(ID, { address: rig.table(good(rig)), length: 48 }, INDIRECT);
        else {
          rig.split.setDescriptor(0, { address: rig.table(good(rig)), length: 48, flags: INDIRECT });
          rig.split.offer(0);
        }
      }
      if (packed) rig.packedRing.publish();
      else rig.split.publish();
      rig.guest.poll();
      let used = 0;
      while (rig.takeUsed() !== undefined) used += 1;
      expect(used).toBe(SIZE);
    }
    rig.finish();
  });
});

describe("on a split ring alone", () => {
  const LOOP: QueueFault = "a chain is longer than its table or the device's limit, or loops";
  const loops = Array.from({ length: SIZE }, (_, index) => index + 1);

  test.each(loops)("a circle of %i descriptors, full and empty", (length) => {
    for (const bytes of [0, 1, 16]) {
      const rig = new HostileRig(false);
      for (let index = 0; index < length; index++)
        rig.descriptor(index, { address: rig.memory.header, length: bytes }, NEXT, (index + 1) % length);
      rig.publish();
      rig.expectLatched(LOOP);
      rig.finish();
    }
  });

  test.each(loops)("a table with a circle of %i entries", (length) => {
    const rig = new HostileRig(false);
    const table = rig.table(new Array<HostileBuffer>(length).fill({ address: rig.memory.header, length: 1 }));
    const window = rig.guest.memory.window(Number(table), 16 * length)!;
    window.setU16(16 * (length - 1) + 12, NEXT);
    window.setU16(16 * (length - 1) + 14, 0);
    rig.descriptor(0, { address: table, length: 16 * length }, INDIRECT);
    rig.publish();
    rig.expectLatched(LOOP);
    rig.finish();
  });

  test.each([SIZE, SIZE + 1, 255, 256, 32_767, 32_768, 65_535])("the head %i", (head) => {
    const rig = new HostileRig(false);
    rig.publish(head);
    rig.expectLatched("a chain's head is outside of the descriptor table");
    rig.finish();
  });

  test.each([SIZE, SIZE + 1, 255, 32_768, 65_535])("the next %i, in the ring and in a table", (next) => {
    for (const inTable of [false, true]) {
      const rig = new HostileRig(false);
      if (inTable) {
        const table = rig.table([{ address: rig.memory.header, length: 16 }]);
        rig.guest.memory.window(Number(table), 16)!.setU16(12, NEXT);
        rig.guest.memory.window(Number(table), 16)!.setU16(14, next);
        rig.descriptor(0, { address: table, length: 16 }, INDIRECT);
      } else rig.descriptor(0, { address: rig.memory.header, length: 16 }, NEXT, next);
      rig.publish();
      rig.expectLatched("a chain's next is outside of its table");
      rig.finish();
    }
  });

  test.each([17, 18, 32, 100, 255, 256, 32_767, 32_768, 65_520, 65_535])(
    "an available index that jumps by %i",
    (jump) => {
      const rig = new HostileRig(false);
      rig.split.setAvailableIndex(jump);
      rig.guest.poll();
      rig.expectLatched("the available index moved by more than the queue's size");
      rig.finish();
    },
  );
});

describe("on a packed ring alone", () => {
  const AVAILABLE: QueueFault = "a chain runs into descriptors that are not available";
  const buffer = (rig: HostileRig): HostileBuffer => ({ address: rig.memory.header, length: 1 });

  test.each(Array.from({ length: SIZE - 1 }, (_, index) => index + 1))(
    "a list that ends after %i without its end",
    (length) => {
      const rig = new HostileRig(true);
      for (let index = 0; index < length; index++) rig.descriptor(index, buffer(rig), NEXT);
      rig.publish();
      rig.expectLatched(AVAILABLE);
      rig.finish();
    },
  );

  test.each(Array.from({ length: SIZE - 1 }, (_, index) => index + 1))(
    "a list whose descriptor %i is of the other turn",
    (at) => {
      const rig = new HostileRig(true);
      for (let index = 0; index < SIZE; index++) {
        const flags = index < SIZE - 1 ? NEXT : 0;
        rig.packedRing.offerDescriptor(ID, { ...buffer(rig) }, flags, index === at);
      }
      rig.publish();
      rig.expectLatched(AVAILABLE);
      rig.finish();
    },
  );

  test("a ring of nothing but nexts", () => {
    const rig = new HostileRig(true);
    for (let index = 0; index < SIZE; index++) rig.descriptor(index, buffer(rig), NEXT);
    rig.publish();
    rig.expectLatched("more descriptors are available than the ring has");
    rig.finish();
  });

  test.each([1, 2, 5, 15, 16])("more than the ring has, while %i are in flight", (inFlight) => {
    const rig = new HostileRig(true);
    rig.guest.disk.open = false;
    rig.header(4);
    const chain = (): void => {
      const table = rig.table([
        { address: rig.memory.header, length: 16 },
        { address: rig.memory.status, length: 1, write: true },
      ]);
      rig.descriptor(0, { address: table, length: 32 }, INDIRECT);
    };
    for (let count = 0; count < inFlight; count++) chain();
    rig.publish();
    for (let count = 0; count <= SIZE - inFlight; count++) rig.descriptor(0, buffer(rig), NEXT);
    rig.publish();
    rig.guest.disk.open = true;
    rig.guest.poll();
    if (inFlight < SIZE) expect(rig.fault).toBe("more descriptors are available than the ring has");
    rig.finish();
  });

  test.each([0, 1, 16, 255, 256, 32_767, 32_768, 65_535])("the id %i is given back as it came", (id) => {
    const rig = new HostileRig(true);
    rig.header(4);
    rig.packedRing.offerDescriptor(9, { address: rig.memory.header, length: 16 }, NEXT);
    rig.packedRing.offerDescriptor(id, { address: rig.memory.status, length: 1 }, WRITE);
    rig.publish();
    expect(rig.takeUsed()).toEqual({ id, length: 1 });
    rig.guest.start();
    rig.finish();
  });
});

test("there are at least 300 chains for each form of rings, and of each outcome many", () => {
  const { memory } = new HostileRig(false);
  const chains = hostileChains(memory);
  const outcomes = chains.map((chain) => expectedOutcome(chain, memory, DISK_SECTORS));
  const count = (outcome: unknown): number =>
    outcomes.filter((one) => JSON.stringify(one) === JSON.stringify(outcome)).length;
  expect(chains.length).toBeGreaterThan(300);
  expect(new Set(chains.map(({ name }) => name)).size).toBe(chains.length);
  for (const outcome of ["latched", { status: 0 }, { status: 1 }, { status: 2 }])
    expect(count(outcome)).toBeGreaterThan(30);
});
