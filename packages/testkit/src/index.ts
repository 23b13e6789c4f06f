export { MemoryDriver, type MemoryDriverOptions, MemoryFiles } from "./memory-driver.ts";
export { SimulatedRunner, type SimulationOptions } from "./simulated-runner.ts";
export { CHUNK_SIZE, SparseBytes } from "./sparse-bytes.ts";
