/** `spindle daemon`: a graph of images under QMP and HMP, until somebody ends it. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { MonitorClient, QmpClient } from "./monitor-client.ts";
import { type Outcome, Scratch, SPINDLE, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");

describe.skipIf(qemuImg === undefined)("daemon", () => {
  let scratch: Scratch;
  let child: ChildProcess | undefined;
  let ended: Promise<{ code: number | null; stderr: string }>;

  beforeEach(() => {
    scratch = new Scratch();
    writeFileSync(scratch.path("base.raw"), Buffer.alloc(16 * MiB, "what the base holds"));
    img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2");
  });
  afterEach(() => {
    child?.kill("SIGKILL");
    scratch[Symbol.dispose]();
  });
  const img = (...argv: string[]): string => scratch.tool(qemuImg as string, ...argv);
  const TOP = "driver=qcow2,node-name=top,file.driver=file,file.filename=top.qcow2";

  /** Starts the daemon and waits until it serves. */
  async function start(...argv: string[]): Promise<void> {
    const [program = "", ...rest] = SPINDLE;
    child = spawn(program, [...rest, "daemon", "--pidfile", "pid", ...argv], { cwd: scratch.folder, stdio: "pipe" });
    let stderr = "";
    child.stderr?.on("data", (text: Buffer) => {
      stderr += text.toString();
    });
    const process = child;
    ended = new Promise((resolve) => process.on("close", (code) => resolve({ code, stderr })));
    const served = async (): Promise<void> => {
      while (!existsSync(scratch.path("pid"))) await new Promise((resolve) => setTimeout(resolve, 20));
    };
    await Promise.race([served(), ended]);
  }

  test("streams an image under QMP, shows the job in HMP, and ends at quit", async () => {
    await start("--blockdev", TOP, "--qmp", "unix:qmp", "--hmp", "unix:hmp");
    expect(readFileSync(scratch.path("pid"), "utf8")).toBe(`${child?.pid}\n`);
    for (const socket of ["qmp", "hmp"]) expect(statSync(scratch.path(socket)).mode % 0o1000).toBe(0o700);
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    const hmp = new MonitorClient(scratch.path("hmp"));
    await qmp.execute("block-stream", { device: "top", "job-id": "fill", speed: 4 * MiB });
    hmp.socket.write("info block-jobs\n");
    await hmp.until(() => hmp.text.includes("Streaming device fill: Completed "));
    hmp.socket.write("block_job_set_speed fill 0\n");
    const completed = await qmp.message(({ event }) => event === "BLOCK_JOB_COMPLETED");
    expect(completed.data).toMatchObject({ device: "fill", offset: 16 * MiB, len: 16 * MiB });
    expect(completed.data).not.toHaveProperty("error");
    expect(await qmp.execute("quit")).toEqual({ return: {} });
    expect(await ended).toEqual({ code: 0, stderr: "" });
    for (const left of ["qmp", "hmp", "pid"]) expect(existsSync(scratch.path(left))).toBe(false);
    img("check", "top.qcow2");
    img("compare", "top.qcow2", "base.raw");
  });

  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s ends it in order, with exit code 0", async (signal) => {
    await start("--blockdev", TOP, "--qmp", "unix:qmp");
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    await qmp.execute("block-stream", { device: "top", "job-id": "fill", speed: 2 * MiB });
    child?.kill(signal);
    expect(await ended).toEqual({ code: 0, stderr: "" });
    expect(existsSync(scratch.path("qmp"))).toBe(false);
    expect(img("check", "top.qcow2")).toContain("No errors");
    img("compare", "top.qcow2", "base.raw");
  });

  test("an error of the base ends the job and is told, and the image stays sound", async () => {
    const fault = {
      driver: "fault",
      file: { driver: "raw", file: { driver: "file", filename: "base.raw" } },
      rules: [{ operation: "read", errno: "EIO", offset: 5 * MiB, length: 512 }],
    };
    const top = {
      driver: "qcow2",
      "node-name": "top",
      file: { driver: "file", filename: "top.qcow2" },
      backing: fault,
    };
    await start("--blockdev", JSON.stringify(top), "--qmp", "unix:qmp");
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    await qmp.execute("block-stream", { device: "top", "job-id": "fill" });
    const told = await qmp.message(({ event }) => event === "BLOCK_JOB_ERROR");
    expect(told.data).toEqual({ device: "fill", operation: "read", action: "report" });
    const completed = await qmp.message(({ event }) => event === "BLOCK_JOB_COMPLETED");
    expect(completed.data).toMatchObject({ error: "Input/output error", offset: 5 * MiB });
    await qmp.execute("quit");
    expect((await ended).code).toBe(0);
    expect(img("info", "top.qcow2")).toContain("backing file: base.raw");
    expect(img("check", "top.qcow2")).toContain("No errors");
    img("compare", "top.qcow2", "base.raw");
  });

  test("a job that an error has stopped goes on when it is resumed", async () => {
    const blockdev = `${TOP},backing.driver=fault,backing.file.driver=raw,backing.file.file.driver=file,backing.file.file.filename=base.raw`;
    const rules = ["operation=read", "offset=5242880", "length=512", "once=on"].map(
      (rule) => `,backing.rules.0.${rule}`,
    );
    await start("--blockdev", blockdev + rules.join(""), "--qmp", "unix:qmp", "--workers", "0");
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    await qmp.execute("block-stream", { device: "top", "job-id": "fill", "on-error": "stop" });
    await qmp.message(({ data }) => data?.["status"] === "paused");
    await qmp.execute("block-job-resume", { device: "fill" });
    const completed = await qmp.message(({ event }) => event === "BLOCK_JOB_COMPLETED");
    expect(completed.data).not.toHaveProperty("error");
    await qmp.execute("quit");
    expect((await ended).code).toBe(0);
    img("check", "top.qcow2");
    img("compare", "top.qcow2", "base.raw");
  });

  test("a client that never reads is cut off, and the others do not notice", async () => {
    await start("--blockdev", TOP, "--qmp", "unix:qmp");
    const greedy = connect(scratch.path("qmp"));
    greedy.on("error", () => {});
    greedy.pause();
    const closed = new Promise<void>((resolve) => greedy.on("close", () => resolve()));
    const command = `{"execute":"query-commands"}`.repeat(1000);
    const feed = (): void => {
      if (greedy.destroyed) return;
      if (greedy.write(`{"execute":"qmp_capabilities"}${command}`)) setImmediate(feed);
      else greedy.once("drain", feed);
    };
    feed();
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    await closed;
    expect(await qmp.execute("query-jobs")).toEqual({ return: [] });
    await qmp.execute("quit");
    expect(await ended).toEqual({ code: 0, stderr: "" });
  });

  test("goes on when its standard input ends, until a signal comes", async () => {
    await start("--qmp", "stdio", "--blockdev", TOP);
    child?.stdin?.end();
    const early = await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 500, "alive"))]);
    expect(early).toBe("alive");
    child?.kill("SIGTERM");
    expect(await ended).toEqual({ code: 0, stderr: "" });
  });

  test("takes commands on its standard streams", async () => {
    await start("--qmp", "stdio");
    let text = "";
    child?.stdout?.on("data", (bytes: Buffer) => {
      text += bytes.toString();
    });
    child?.stdin?.write(`{"execute":"qmp_capabilities"}{"execute":"query-version","id":7}{"execute":"quit"}`);
    expect(await ended).toEqual({ code: 0, stderr: "" });
    expect(text).toMatch(
      /^\{"QMP": .*\r\n\{"return": \{\}\}\r\n\{"return": \{.*\}, "id": 7\}\r\n\{"return": \{\}\}\r\n$/,
    );
  });

  test.each([
    ["no monitor", [], /give --qmp or --hmp/],
    ["a place that is none", ["--qmp", "tcp:1"], /unix:PATH or stdio/],
    ["two monitors on one terminal", ["--qmp", "stdio", "--hmp", "stdio"], /only one monitor/],
    ["JSON that is none", ["--qmp", "unix:q", "--blockdev", "{x"], /--blockdev/],
    ["an unknown driver", ["--qmp", "unix:q", "--blockdev", "driver=x,node-name=a"], /does not accept value 'x'/],
    ["a node without a name", ["--qmp", "unix:q", "--blockdev", "driver=file,filename=top.qcow2"], /node-name/],
    ["a missing file", ["--qmp", "unix:q", "--blockdev", "driver=file,filename=gone,node-name=a"], /No such file/],
    ["a socket where a file is", ["--qmp", "unix:top.qcow2"], /not a socket/],
    ["a socket in no folder", ["--qmp", "unix:gone/q"], /Could not listen/],
  ] as const)("refuses %s", async (_what, argv, reason) => {
    const outcome: Outcome = await spindle(["daemon", ...argv], { cwd: scratch.folder });
    expect(outcome.stderr).toMatch(reason);
    expect(outcome.stderr).toMatch(/^spindle: .*\n$/);
    expect(outcome.code).toBe(1);
  });
});
