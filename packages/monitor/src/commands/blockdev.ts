/** Opening, closing and listing nodes: `blockdev-add`, `blockdev-del`, `query-named-block-nodes`. */
import { BlockError, type Co } from "@spindle/base";
import { type Command, command, refuseNul } from "../command.ts";
import { blockNodeInfo } from "../node-info.ts";
import { parameterValue } from "../qmp-error.ts";

export const blockdevCommands: readonly Command[] = [
  command(
    "blockdev-add",
    { driver: "string", "node-name": "string?" },
    function* ({ graph }, { driver, "node-name": name }, options): Co<void> {
      if (!graph.registry.names().includes(driver)) throw parameterValue("driver", driver);
      if (name === undefined) throw new BlockError("EINVAL", "'node-name' must be specified for the root node");
      for (const [key, value] of Object.entries(options)) refuseNul(key, value);
      yield* graph.open(options);
    },
    { open: true, changesGraph: true },
  ),
  command(
    "blockdev-del",
    { "node-name": "string" },
    function* ({ graph }, values): Co<void> {
      yield* graph.remove(values["node-name"]);
    },
    { changesGraph: true },
  ),
  command(
    "block_resize",
    { device: "string?", "node-name": "string?", size: "integer" },
    function* ({ graph }, { device, "node-name": name, size }): Co<void> {
      // QEMU looks for a device and for a node; here both are nodes.
      const node = graph.node(device ?? name ?? "");
      if (node === undefined || (device !== undefined && name !== undefined))
        throw new BlockError("ENOENT", `Cannot find device='${device ?? ""}' nor node-name='${name ?? ""}'`);
      if (size < 0) throw new BlockError("EINVAL", "Parameter 'size' expects a >0 size");
      const above = graph.nodes().find(({ children }) => children.file === node || children.backing === node);
      if (above !== undefined)
        throw new BlockError("EBUSY", `Node '${node.name}' is busy: node is used by '${above.name}'`, {
          node: node.name,
        });
      node.checkIdle();
      yield* node.truncate(size);
    },
    { changesGraph: true },
  ),
  command("query-named-block-nodes", { flat: "boolean?" }, function* ({ graph }, { flat }) {
    const infos: Readonly<Record<string, unknown>>[] = [];
    for (const node of graph.nodes()) infos.push(yield* blockNodeInfo(node, flat === true));
    return infos;
  }),
];
