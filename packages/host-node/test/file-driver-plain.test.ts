import * as fs from "node:fs";
import { SyncRunner } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { fileDriver, linuxCalls, nodeEnvironment } from "../src/index.ts";
import { describeFileDriver, folders, freshPath, request } from "./file-harness.ts";

// Before anything is opened: the calls are looked for once.
process.env["SPINDLE_NO_KOFFI"] = "1";

describeFileDriver("without koffi");

describe("file driver without koffi", () => {
  it("has no calls of Linux, and takes everything for data", () => {
    expect(linuxCalls()).toBeNull();
    const path = freshPath(folders[0] as string);
    fs.writeFileSync(path, "");
    fs.truncateSync(path, 1024 * 1024);
    const runner = new SyncRunner(nodeEnvironment().clock);
    const driver = runner.run(fileDriver.open(request({ filename: path })));
    expect(runner.run(driver.blockStatus(0, 1024 * 1024))).toMatchObject({
      length: 1024 * 1024,
      data: true,
      zero: false,
    });
    runner.run(driver.close());
  });
});
