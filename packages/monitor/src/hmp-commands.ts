/** The commands for people, with QEMU's names, arguments and texts (hmp-commands.hx). Each acts through a QMP command. */
import { type Co, isBlockError } from "@spindle/base";
import type { BlockNode } from "@spindle/block";
import type { BlockJobInfo } from "@spindle/jobs";
import type { CommandContext } from "./command.ts";
import { given } from "./given.ts";
import type { HmpArgument, HmpValues } from "./hmp-arguments.ts";
import { type JsonObject, jsonObject } from "./json-value.ts";
import { chainDepth, filenameOf } from "./node-info.ts";

export interface HmpCommand {
  /** The names by which it is called, separated by `|`. */
  readonly names: string;
  readonly arguments: readonly HmpArgument[];
  /** The arguments as `help` shows them. */
  readonly parameters: string;
  readonly help: string;
  /** @returns what is printed, with its line ends; an error is printed by the caller. */
  run(context: CommandContext, values: HmpValues): Co<string>;
}

const DEVICE: HmpArgument = { kind: "device", name: "device" };

/** A command that calls a QMP command and prints nothing. */
function acting(
  description: Omit<HmpCommand, "run">,
  name: string,
  argumentsOf: (values: HmpValues) => object = (values) => values,
): HmpCommand {
  return {
    ...description,
    *run(context, values): Co<string> {
      yield* context.execute(name, jsonObject(given(argumentsOf(values)) as JsonObject));
      return "";
    },
  };
}

function jobVerb(verb: string, help: string): HmpCommand {
  const names = `block_job_${verb}`;
  return acting({ names, arguments: [DEVICE], parameters: "device", help }, `block-job-${verb}`);
}

const NOT_UNTIL_SYNC = `stop an active background block operation (use -f
\t\t\t if you want to abort the operation immediately
\t\t\t instead of keep running until data is in sync)`;

/** `help` and `info` are the interpreter's own. */
export const HMP_COMMANDS: readonly HmpCommand[] = [
  acting(
    {
      names: "block_job_cancel",
      arguments: [{ kind: "flag", name: "force", letter: "f" }, DEVICE],
      parameters: "[-f] device",
      help: NOT_UNTIL_SYNC,
    },
    "block-job-cancel",
  ),
  jobVerb("complete", "stop an active background block operation"),
  jobVerb("pause", "pause an active background block operation"),
  jobVerb("resume", "resume a paused background block operation"),
  acting(
    {
      names: "block_job_set_speed",
      arguments: [DEVICE, { kind: "size", name: "speed" }],
      parameters: "device speed",
      help: "set maximum speed for a background block operation",
    },
    "block-job-set-speed",
  ),
  acting(
    {
      names: "block_stream",
      arguments: [
        DEVICE,
        { kind: "size", name: "speed", optional: true },
        { kind: "string", name: "base", optional: true },
      ],
      parameters: "device [speed [base]]",
      help: "copy data from a backing file into a block device",
    },
    "block-stream",
    (values) => ({ ...values, "job-id": values["device"], "on-error": "report" }),
  ),
  acting(
    {
      names: "block_resize",
      arguments: [DEVICE, { kind: "size", name: "size" }],
      parameters: "device size",
      help: "resize a block image",
    },
    "block_resize",
  ),
  acting({ names: "cont|c", arguments: [], parameters: "", help: "resume emulation" }, "cont"),
  acting({ names: "stop|s", arguments: [], parameters: "", help: "stop emulation" }, "stop"),
  acting({ names: "quit|q", arguments: [], parameters: "", help: "quit the emulator" }, "quit"),
];

export const INFO_COMMANDS: readonly HmpCommand[] = [
  {
    names: "block",
    arguments: [
      { kind: "flag", name: "nodes", letter: "n" },
      { kind: "flag", name: "verbose", letter: "v" },
      { kind: "device", name: "device", optional: true },
    ],
    parameters: "[-n] [-v] [device]",
    help: "show info of one block device or all block devices (-n: show named nodes; -v: show details)",
    *run({ graph }, { nodes, verbose, device }): Co<string> {
      const all = graph.nodes();
      const used = new Set(all.flatMap((node) => [node.children.file, node.children.backing]));
      const shown = all.filter((node) =>
        device === undefined ? nodes === true || !used.has(node) : node.name === device,
      );
      return shown.map((node) => describeNode(node, verbose === true)).join("\n");
    },
  },
  {
    names: "block-jobs",
    arguments: [],
    parameters: "",
    help: "show progress of ongoing block device operations",
    *run(context): Co<string> {
      const jobs = (yield* context.execute("query-block-jobs", jsonObject())) as readonly BlockJobInfo[];
      if (jobs.length === 0) return "No active jobs\n";
      return jobs.map(describeJob).join("");
    },
  },
  {
    names: "status",
    arguments: [],
    parameters: "",
    help: "show the current VM status (running|paused)",
    *run(context): Co<string> {
      const { running, status } = (yield* context.execute("query-status", jsonObject())) as RunStatus;
      const why = running || status === "paused" ? "" : ` (${status})`;
      return `VM status: ${running ? "running" : "paused"}${why}\n`;
    },
  },
  {
    names: "version",
    arguments: [],
    parameters: "",
    help: "show the version of QEMU",
    *run({ version: { major, minor, micro, package: distributor } }): Co<string> {
      return `${major}.${minor}.${micro}${distributor}\n`;
    },
  },
];

interface RunStatus {
  readonly running: boolean;
  readonly status: string;
}

function describeNode(node: BlockNode, verbose: boolean): string {
  const readOnly = node.readOnly ? ", read-only" : "";
  const { direct, noFlush } = node.cache;
  const lines = [
    `${node.name}: ${filenameOf(node) || "[not inserted]"} (${node.driver.name}${readOnly})`,
    `    Cache mode:       writeback${direct === true ? ", direct" : ""}${noFlush === true ? ", ignore flushes" : ""}`,
  ];
  const { backing } = node.children;
  if (backing !== null) lines.push(`    Backing file:     ${filenameOf(backing)} (chain depth: ${chainDepth(node)})`);
  if (verbose) lines.push(`    Virtual size:     ${node.length} bytes`);
  return `${lines.join("\n")}\n`;
}

function describeJob({ device, len, offset, speed }: BlockJobInfo): string {
  return `Streaming device ${device}: Completed ${offset} of ${len} bytes, speed limit ${speed} bytes/s\n`;
}

/** Prints what a command throws as QEMU does. */
export function* withErrors(body: Co<string>): Co<string> {
  try {
    return yield* body;
  } catch (error) {
    if (!isBlockError(error)) throw error;
    return `Error: ${error.message}\n`;
  }
}
