/** Secrets for opening images: `object-add`, `object-del`. */
import { BlockError, type Co } from "@spindle/base";
import type { Graph, SecretStore } from "@spindle/block";
import { type Command, command, refuseNul } from "../command.ts";

export const objectCommands: readonly Command[] = [
  command(
    "object-add",
    { "qom-type": "string", id: "string" },
    function* ({ graph }, _values, properties): Co<void> {
      for (const [key, value] of Object.entries(properties)) refuseNul(key, value);
      secretsOf(graph).create(properties);
    },
    { open: true },
  ),
  command("object-del", { id: "string" }, function* ({ graph }, { id }): Co<void> {
    secretsOf(graph).remove(id);
  }),
];

function secretsOf({ environment }: Graph): SecretStore {
  if (environment.secrets === undefined) throw new BlockError("ENOTSUP", "this host keeps no secrets");
  return environment.secrets;
}
