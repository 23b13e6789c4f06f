/** A virtual machine under QEMU whose disk is served at a socket. It runs a script, and says what comes out. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { peer } from "@spindle/testkit/peers";
import { makeArchive } from "./cpio.ts";
import type { DebianGuest } from "./debian-guest.ts";

export interface MachineOptions {
  /** A folder for files of this machine. */
  readonly folder: string;
  readonly socket: string;
  readonly queues: number;
  readonly packed?: boolean;
  /** The back end may go and come again. */
  readonly reconnects?: boolean;
  /** Called with each line that the guest says. */
  readonly heard?: (line: string) => void;
}

/** Long enough for a machine in an emulated processor that is shared with other tests. */
const TIMEOUT_MS = 200_000;

/** Starts Linux, runs a script of busybox's shell in it, and waits for its end. @returns what it said, line by line. */
export async function runGuest(
  script: string,
  options: MachineOptions & { readonly guest: DebianGuest },
): Promise<string[]> {
  const { guest } = options;
  const initrd = join(options.folder, "initrd");
  const own = makeArchive([{ path: "script", content: script }]);
  writeFileSync(initrd, Buffer.concat([readFileSync(guest.initrd), own]));
  const lines = await runQemu(
    [
      ...["-kernel", guest.kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 oops=panic"],
      ...diskArguments(options),
      ...["-drive", `if=none,id=tools,file=${guest.tools},format=raw,readonly=on`],
      ...["-device", "virtio-blk-pci,drive=tools"],
    ],
    options.heard,
  );
  if (!lines.includes("guest: the end")) throw new Error(`the guest did not come to its end:\n${lines.join("\n")}`);
  return lines;
}

/** The memory that is shared with the back end, and its device. */
export function diskArguments({ socket, queues, packed, reconnects }: MachineOptions): string[] {
  return [
    ...["-m", "512", "-object", "memory-backend-memfd,id=memory,size=512M,share=on", "-numa", "node,memdev=memory"],
    ...["-chardev", `socket,id=disk,path=${socket}${reconnects === true ? ",reconnect=1" : ""}`],
    ...[
      "-device",
      `vhost-user-blk-pci,chardev=disk,num-queues=${queues}${packed === true ? ",packed=on" : ""},bootindex=1`,
    ],
  ];
}

export async function runQemu(
  argv: readonly string[],
  heard?: (line: string) => void,
  timeoutMs = TIMEOUT_MS,
): Promise<string[]> {
  const machine = ["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-nodefaults"];
  const terminal = ["-display", "none", "-serial", "stdio", "-no-reboot"];
  const child: ChildProcess = spawn(peer("qemu-system-x86_64") as string, [...machine, ...terminal, ...argv], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const lines: string[] = [];
  let rest = "";
  const take = (text: string): void => {
    const parts = `${rest}${text}`.split(/\r*\n/);
    rest = parts.pop() ?? "";
    for (const line of parts) {
      lines.push(line);
      heard?.(line);
    }
  };
  child.stdout?.setEncoding("utf8").on("data", take);
  child.stderr?.setEncoding("utf8").on("data", take);
  const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
  await new Promise<void>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", () => resolve());
  });
  clearTimeout(timer);
  if (rest !== "") lines.push(rest);
  return lines;
}
