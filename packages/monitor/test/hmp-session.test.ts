import { describe, expect, it } from "vitest";
import { type Client, MonitorRig } from "./monitor-rig.ts";

const PROMPT = "(qemu) ";

/** What one line prints, without the prompt behind it. */
function print(client: Client, line: string): string {
  const text = client.say(`${line}\n`).take();
  expect(text.endsWith(PROMPT)).toBe(true);
  return text.slice(0, -PROMPT.length).replaceAll("\r\n", "\n");
}

describe("an HMP session", () => {
  it("greets and prompts", () => {
    const client = new MonitorRig().hmp();
    expect(client.take()).toBe(`Spindle 7.2.22 monitor - type 'help' for more information\r\n${PROMPT}`);
    expect(client.say("\n").take()).toBe(PROMPT);
    expect(client.say("foo\r\n").take()).toBe(`unknown command: 'foo'\r\n${PROMPT}`);
    expect(client.say("a\rb\nc").take()).toBe(`unknown command: 'a'\r\n${PROMPT}unknown command: 'b'\r\n${PROMPT}`);
    expect(client.say("d\n").take()).toBe(`unknown command: 'cd'\r\n${PROMPT}`);
  });

  it("streams an image from a command line", () => {
    const rig = new MonitorRig();
    rig.addChain(rig.qmp());
    const client = rig.hmp();
    client.take();
    expect(print(client, "info block-jobs")).toBe("No active jobs\n");
    expect(print(client, "block_stream top 1B")).toBe("");
    expect(print(client, "info block-jobs")).toMatch(
      /^Streaming device top: Completed \d+ of 8388608 bytes, speed limit 1 bytes\/s\n$/,
    );
    expect(print(client, "block_job_set_speed top 2")).toBe("");
    expect(print(client, "info block-jobs")).toContain("speed limit 2097152 bytes/s");
    expect(print(client, "block_job_pause top")).toBe("");
    expect(print(client, "block_job_cancel top")).toBe("Error: The block job for device 'top' is currently paused\n");
    expect(print(client, "block_job_resume top")).toBe("");
    expect(print(client, "block_job_complete top")).toBe(
      "Error: Job 'top' in state 'running' cannot accept command verb 'complete'\n",
    );
    expect(print(client, "block_job_cancel -f top")).toBe("");
    expect(print(client, "info block-jobs")).toBe("No active jobs\n");
    expect(print(client, "block_stream top")).toBe("");
    rig.until(() => rig.jobs.list().length === 0);
    expect(rig.graph.node("top")?.children.backing).toBeNull();
  });

  it("lists the disks, and with -n every node", () => {
    const rig = new MonitorRig();
    rig.addChain(rig.qmp());
    const client = rig.hmp();
    client.take();
    const top = "top: top (layer)\n    Cache mode:       writeback\n    Backing file:     base (chain depth: 1)\n";
    expect(print(client, "info block")).toBe(top);
    expect(print(client, "info block top")).toBe(top);
    expect(print(client, "info block -n").split("\n\n")).toHaveLength(3);
    expect(print(client, "info block -v top")).toBe(`${top}    Virtual size:     8388608 bytes\n`);
    expect(print(client, "info block nope")).toBe("");
  });

  it("helps with every command, sorted", () => {
    const client = new MonitorRig().hmp();
    client.take();
    const names = print(client, "help")
      .split("\n")
      .filter((line) => line.includes(" -- "))
      .map((line) => line.split(" ")[0]);
    expect(names).toEqual([
      "block_job_cancel",
      "block_job_complete",
      "block_job_pause",
      "block_job_resume",
      "block_job_set_speed",
      "block_resize",
      "block_stream",
      "cont|c",
      "help|?",
      "info",
      "quit|q",
      "stop|s",
    ]);
    expect(print(client, "info").split("\n")[1]).toBe(
      "info block-jobs  -- show progress of ongoing block device operations",
    );
    expect(print(client, "help info")).toBe(print(client, "info"));
  });

  it("quits without another prompt", () => {
    const rig = new MonitorRig();
    const client = rig.hmp();
    client.take();
    client.say("q\nhelp\n");
    expect(client.take()).toBe("");
    expect(rig.quits).toBe(1);
  });

  it("cuts long lines and survives bytes of every kind", () => {
    const client = new MonitorRig().hmp();
    client.take();
    client.sayBytes(Buffer.alloc(10 * 1024 * 1024, "x"));
    expect(print(client, "").length).toBeLessThan(5000);
    client.sayBytes(Uint8Array.from({ length: 256 }, (_, index) => index));
    client.take();
    expect(print(client, "\ninfo block-jobs")).toContain("No active jobs");
  });
});
