/** All benches, in the order in which they run. */
import type { Bench } from "./bench.ts";
import { convertBench } from "./convert.ts";
import { driverIoBench } from "./driver-io.ts";
import { guestIoBench } from "./guest-io.ts";
import { hugeImageBench } from "./huge-image.ts";
import { rangeLockTables } from "./locks.ts";
import { memoryBench } from "./memory.ts";
import { microBench } from "./micro.ts";
import { startUpBench } from "./start-up.ts";
import { streamBench } from "./stream.ts";
import { streamLatencyBench } from "./stream-latency.ts";
import { vhostUserBench } from "./vhost-user.ts";

export const BENCHES: readonly Bench[] = [
  streamBench,
  streamLatencyBench,
  convertBench,
  startUpBench,
  hugeImageBench,
  driverIoBench,
  guestIoBench,
  vhostUserBench,
  rangeLockTables,
  microBench,
  memoryBench,
];
