/** A qcow2 image that is gone when it is closed: what `-s` writes to instead of the image. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BlockError, type Co } from "@spindle/base";
import type { BlockNode, Graph } from "@spindle/block";
import { createFile } from "@spindle/host-node";

/** Opens an empty overlay above an open image. The file has no name any more when this ends. */
export function* openSnapshot(graph: Graph, image: BlockNode): Co<BlockNode> {
  const { create } = graph.registry.get("qcow2");
  if (create === undefined) throw new BlockError("ENOTSUP", "no snapshot can be created");
  const folder = mkdtempSync(join(tmpdir(), "spindle-io-"));
  try {
    const filename = join(folder, "snapshot");
    yield* createFile(filename);
    const file = yield* graph.open({ driver: "file", filename });
    try {
      yield* create(file, { size: image.length, options: {} }, graph.environment);
    } finally {
      yield* graph.remove(file.name);
    }
    return yield* graph.open({ driver: "qcow2", file: { driver: "file", filename }, backing: image.name });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
