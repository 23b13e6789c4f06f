import { setTimeout as pause } from "node:timers/promises";
import { AsyncRunner } from "@spindle/base";
import { DriverRegistry, Graph, PortServer } from "@spindle/block";
import { fileDriver, HostBackingPolicy, nodeEnvironment, nodeEventLoop } from "@spindle/host-node";
import { RangeLock, ThreadTable } from "@spindle/shared-memory";
import { GuestRig } from "./guest-rig.ts";
import { Scratch, writeRandomFile } from "./scratch.ts";

using s = new Scratch();
writeRandomFile(s.path("x"), 2 ** 28);
const threads = ThreadTable.create();
const owner = new ThreadTable(threads).attach();
const runner = new AsyncRunner(nodeEventLoop(), owner);
const tracker = RangeLock.create();
const graph = new Graph({
  environment: nodeEnvironment(),
  registry: new DriverRegistry([fileDriver]),
  backingPolicy: undefined as never,
  createTracker: () => new RangeLock(tracker, owner),
});
const node = await runner.run(graph.open({ driver: "file", filename: s.path("x") }));
const server = new PortServer(node, tracker, owner, runner);
for (const operation of ["read", "write"] as const)
  for (const depth of [1, 32])
    for (const guests of [1, 2]) {
      const rig = await GuestRig.start({
        threads,
        openPort: () => server.open(),
        run: (co) => runner.run(co),
        guests,
        operation,
        depth,
        workingSet: 2 ** 26,
        diskLength: node.length,
      });
      await rig.measure("warm-up", () => pause(300));
      console.log(operation, depth, guests, await rig.measure("alone", () => pause(1000)));
      console.log("stop");
      await rig.stop();
      console.log("stopped");
    }
process.exit(0);
