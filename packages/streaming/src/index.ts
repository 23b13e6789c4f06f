export { type CompressPoolOptions, compressPool } from "./compress-pool.ts";
export { CopyPool, type CopyPoolOptions } from "./copy-pool.ts";
