/** All benches, in the order in which they run. */
import type { Bench } from "./bench.ts";
import { rangeLockTables } from "./locks.ts";
import { microBench } from "./micro.ts";

export const BENCHES: readonly Bench[] = [rangeLockTables, microBench];
