/** What the figures depend on and the reader cannot see: the machine, and the versions of everybody in the comparison. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { availableParallelism, release, totalmem } from "node:os";
import { GiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";

export interface EnvironmentFacts {
  readonly date: string;
  readonly processor: string;
  readonly cores: number;
  /** Bytes. */
  readonly memory: number;
  readonly kernel: string;
  readonly node: string;
  /** By program: the first line of what it says of itself, null when it is not installed. */
  readonly peers: Readonly<Record<string, string | null>>;
}

const PEERS = ["qemu-storage-daemon", "qemu-img", "nbdkit", "cp"];

export function environmentFacts(): EnvironmentFacts {
  return {
    date: new Date().toISOString().slice(0, 10),
    processor: processorName(),
    cores: availableParallelism(),
    memory: totalmem(),
    kernel: release(),
    node: process.version,
    peers: Object.fromEntries(PEERS.map((name) => [name, versionOf(name)])),
  };
}

/** The facts as one sentence. */
export function describeFacts(facts: EnvironmentFacts): string {
  const { cores, processor, memory, kernel, node, peers, date } = facts;
  const versions = Object.entries(peers).map(([name, version]) => version ?? `${name} is not installed`);
  const machine = `${cores} cores of ${processor}, ${Math.round(memory / GiB)} GiB of memory, Linux ${kernel}`;
  return `Measured on ${date} with ${machine}, Node ${node}, ${versions.join(", ")}.`;
}

function processorName(): string {
  try {
    return /^model name\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? process.arch;
  } catch {
    return process.arch;
  }
}

function versionOf(name: string): string | null {
  const program = peer(name);
  if (program === undefined) return null;
  const [line = ""] = execFileSync(program, ["--version"], { encoding: "utf8" }).split("\n");
  return line.replace(/ \(Debian.*\)$/, "");
}
