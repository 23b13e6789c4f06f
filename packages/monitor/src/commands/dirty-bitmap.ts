/** Dirty bitmaps of nodes: `block-dirty-bitmap-add` and its siblings. */
import { BlockError, type Co } from "@spindle/base";
import { type BitmapReference, type BlockNode, changeBitmaps, type DirtyBitmaps, type Graph } from "@spindle/block";
import { type Command, type CommandContext, command, refuseNul } from "../command.ts";
import { isJsonObject, type JsonObject, type JsonValue } from "../json-value.ts";
import { parameterMissing, parameterType, parameterUnexpected } from "../qmp-error.ts";

export const dirtyBitmapCommands: readonly Command[] = [
  command(
    "block-dirty-bitmap-add",
    { node: "string", name: "string", granularity: "uint32?", persistent: "boolean?", disabled: "boolean?" },
    function* ({ graph }, { node: nodeName, name, granularity, persistent = false, disabled }): Co<void> {
      const node = graph.lookup(nodeName);
      if (persistent && node.readOnly) throw new BlockError("EROFS", "Block node is read-only", { node: nodeName });
      yield* changeBitmaps(graph, node, function* (bitmaps) {
        bitmaps.add({ name, granularity, persistent, enabled: disabled !== true });
      });
    },
    { changesGraph: true },
  ),
  onBitmap("block-dirty-bitmap-remove", (bitmaps, name) => bitmaps.remove(name)),
  onBitmap("block-dirty-bitmap-clear", function* (bitmaps, name) {
    bitmaps.findUsable(name).clear();
  }),
  onBitmap("block-dirty-bitmap-enable", function* (bitmaps, name) {
    bitmaps.findUsable(name).enabled = true;
  }),
  onBitmap("block-dirty-bitmap-disable", function* (bitmaps, name) {
    bitmaps.findUsable(name).enabled = false;
  }),
  command(
    "block-dirty-bitmap-merge",
    { node: "string", target: "string", bitmaps: "array" },
    function* ({ graph }, { node: nodeName, target, bitmaps: sources }): Co<void> {
      const node = nodeOf(graph, nodeName);
      const named = sources.map((source, index) => sourceIn(graph, node, source, index));
      yield* changeBitmaps(graph, node, (bitmaps) => bitmaps.merge(target, named));
    },
    { changesGraph: true },
  ),
];

function onBitmap(name: string, change: (bitmaps: DirtyBitmaps, bitmap: string) => Co<void>): Command {
  return command(
    name,
    { node: "string", name: "string" },
    function* ({ graph }: CommandContext, values): Co<void> {
      yield* changeBitmaps(graph, nodeOf(graph, values.node), (bitmaps) => change(bitmaps, values.name));
    },
    { changesGraph: true },
  );
}

/** @throws {BlockError} ENOENT, in the words that QEMU has for these commands. */
function nodeOf(graph: Graph, name: string): BlockNode {
  const node = graph.node(name);
  if (node === undefined) throw new BlockError("ENOENT", `Node '${name}' not found`);
  return node;
}

/** A bitmap of the same node by its name, or one of another node by both. */
function sourceIn(graph: Graph, node: BlockNode, source: JsonValue, index: number): BitmapReference {
  const where = `bitmaps[${index}]`;
  refuseNul(where, source);
  if (typeof source === "string") return { bitmaps: node.bitmaps, name: source };
  if (!isJsonObject(source)) throw parameterType(where, "BlockDirtyBitmapOrStr");
  const nodeName = memberOf(source, where, "node");
  const name = memberOf(source, where, "name");
  const unknown = Object.keys(source).find((key) => key !== "node" && key !== "name");
  if (unknown !== undefined) throw parameterUnexpected(`${where}.${unknown}`);
  return { bitmaps: nodeOf(graph, nodeName).bitmaps, name };
}

function memberOf(source: JsonObject, where: string, key: string): string {
  const value = source[key];
  if (value === undefined) throw parameterMissing(`${where}.${key}`);
  if (typeof value !== "string") throw parameterType(`${where}.${key}`, "string");
  return value;
}
