/** `block-stream`: fills an image from its backing chain while it is in use. */
import type { Co } from "@spindle/base";
import { startStream } from "@spindle/jobs";
import { type Command, command } from "../command.ts";
import { given } from "../given.ts";

export const blockStream: Command = command(
  "block-stream",
  {
    "job-id": "string?",
    device: "string",
    base: "string?",
    "base-node": "string?",
    "backing-file": "string?",
    bottom: "string?",
    speed: "integer?",
    "on-error": { oneOf: ["report", "ignore", "enospc", "stop", "auto"] },
    "filter-node-name": "string?",
    "auto-finalize": "boolean?",
    "auto-dismiss": "boolean?",
    // Ours: the longest copy, in bytes.
    "x-chunk": "integer?",
  },
  function* (context, values): Co<void> {
    const { device, base, bottom, speed } = values;
    const node = context.graph.lookup(device);
    const rest = given({
      base,
      baseNode: values["base-node"],
      backingFile: values["backing-file"],
      bottom,
      speed,
      onError: values["on-error"],
      filterNodeName: values["filter-node-name"],
      autoFinalize: values["auto-finalize"],
      autoDismiss: values["auto-dismiss"],
      chunk: values["x-chunk"],
    });
    // A node is no device, after which the job would be named.
    yield* startStream(context, { jobId: values["job-id"] ?? "", node, device, ...rest });
  },
  { changesGraph: true },
);
