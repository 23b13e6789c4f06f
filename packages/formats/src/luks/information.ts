/** What `info` tells of an encrypted volume, with the keys of qemu-img's JSON output in its order. */
import type { LuksHeader } from "./header.ts";
import { STRIPES } from "./header.ts";

/** @param format told as well where a volume is part of another format */
export function luksInformation(header: LuksHeader, format?: string): Readonly<Record<string, unknown>> {
  const { mode, algorithm, ivGenerator, ivHash } = header.cipher;
  return {
    "ivgen-alg": ivGenerator,
    "hash-alg": header.hash,
    "cipher-alg": algorithm,
    uuid: header.uuid,
    ...(ivGenerator === "essiv" ? { "ivgen-hash-alg": ivHash } : {}),
    ...(format === undefined ? {} : { format }),
    "cipher-mode": mode,
    slots: header.slots.map(({ active, iterations, keyOffset }) =>
      active
        ? { active, iters: iterations, "key-offset": keyOffset, stripes: STRIPES }
        : { active, "key-offset": keyOffset },
    ),
    "payload-offset": header.payloadOffset,
    "master-key-iters": header.digestIterations,
  };
}
