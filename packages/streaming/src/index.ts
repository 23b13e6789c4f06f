export { CopyPool, type CopyPoolOptions } from "./copy-pool.ts";
