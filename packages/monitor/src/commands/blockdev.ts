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
  command("query-named-block-nodes", { flat: "boolean?" }, function* ({ graph }, { flat }) {
    return graph.nodes().map((node) => blockNodeInfo(node, flat === true));
  }),
];
