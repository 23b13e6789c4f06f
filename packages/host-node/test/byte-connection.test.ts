import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { PassThrough } from "node:stream";
import { describe, expect, it } from "vitest";
import { socketConnection } from "../src/index.ts";

/** A process that answers `<...>` on its standard streams, and closes them after `quit`. */
function answerer(): ChildProcess {
  const script = `
    import { standardConnection } from ${JSON.stringify(import.meta.resolve("../src/index.ts"))};
    const connection = standardConnection();
    connection.onData = (bytes) => {
      connection.write(Buffer.from("<" + Buffer.from(bytes) + ">"));
      if (String(Buffer.from(bytes)) === "quit") connection.close();
    };
    connection.onEnd = () => process.stderr.write("ended");
  `;
  return spawn(process.execPath, ["--conditions=spindle-source", "--input-type=module", "-e", script]);
}

describe("standard streams", () => {
  it("carry bytes both ways, and let the process end when they are closed", async () => {
    const child = answerer();
    child.stdin?.write("hello");
    expect(String((await once(child.stdout as NodeJS.EventEmitter, "data"))[0])).toBe("<hello>");
    child.stdin?.write("quit");
    expect(String((await once(child.stdout as NodeJS.EventEmitter, "data"))[0])).toBe("<quit>");
    expect(await once(child, "exit")).toEqual([0, null]);
  });

  it("end when their peer does", async () => {
    const child = answerer();
    let told = "";
    child.stderr?.on("data", (text) => {
      told += text;
    });
    child.stdin?.end("last words");
    expect(await once(child, "close")).toEqual([0, null]);
    expect(told).toBe("ended");
  });
});

describe("byte connection", () => {
  it("sends nothing after its end, and tells of it once", () => {
    const stream = new PassThrough();
    const connection = socketConnection(stream);
    let ends = 0;
    connection.onEnd = () => {
      ends += 1;
    };
    expect(connection.write(Uint8Array.of(1))).toBe(true);
    connection.close();
    connection.close();
    expect(connection.write(Uint8Array.of(2))).toBe(false);
    expect(ends).toBe(1);
  });

  it("ends when the stream fails", async () => {
    const stream = new PassThrough();
    const connection = socketConnection(stream);
    const over = new Promise<void>((resolve) => {
      connection.onEnd = resolve;
    });
    stream.destroy(new Error("broken"));
    await over;
    expect(connection.write(Uint8Array.of(1))).toBe(false);
  });
});
