/** The protocol driver `null-co`: a disk of zeros that forgets what is written. It shows what everything around it costs. */
import { BlockError, type Co, GiB } from "@spindle/base";
import type { BlockDriver } from "./driver.ts";
import { type Extent, zeroExtent } from "./extent.ts";
import type { IoVector } from "./io-vector.ts";
import type { DriverDefinition } from "./registry.ts";

const SIZE_DEFAULT: number = GiB;

class NullDriver implements BlockDriver {
  readonly name = "null-co";
  readonly requestAlignment = 1;
  readonly clusterSize = 1;
  readonly #size: number;

  constructor(size: number) {
    this.#size = size;
  }

  length(): number {
    return this.#size;
  }
  *read(_offset: number, vector: IoVector): Co<void> {
    vector.fill(0);
  }
  *write(): Co<void> {}
  *writeZeroes(): Co<void> {}
  *discard(): Co<void> {}
  *flush(): Co<void> {}
  *blockStatus(_offset: number, length: number): Co<Extent> {
    return zeroExtent(length);
  }
  *truncate(): Co<void> {
    throw new BlockError("ENOTSUP", "the length of a null-co disk is fixed");
  }
  *close(): Co<void> {}
}

/** `{driver: "null-co", size}`; the size is in bytes, 1 GiB when absent. */
export const nullDriver: DriverDefinition = {
  name: "null-co",
  kind: "protocol",
  options: { size: "number", "read-zeroes": "boolean" },
  *open({ options }) {
    const { size = SIZE_DEFAULT } = options;
    if (typeof size !== "number" || size < 0) throw new BlockError("EINVAL", "size must be a non-negative number");
    return new NullDriver(size);
  },
};
