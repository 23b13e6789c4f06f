/** Files of the host to test with: on the disk and in memory, through the blocking runner and the event loop. */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AsyncRunner, type Co, SyncRunner } from "@spindle/base";
import type { BlockDriver, OpenRequest } from "@spindle/block";
import { describeDriver } from "@spindle/testkit/driver-conformance";
import { afterAll } from "vitest";
import { createFile, fileDriver, nodeEnvironment, nodeEventLoop } from "../src/index.ts";

const environment = nodeEnvironment();
export const folders: readonly string[] = [tmpdir(), "/dev/shm"]
  .filter((folder) => fs.existsSync(folder))
  .map((folder) => fs.mkdtempSync(join(folder, "spindle-file-driver-")));
afterAll(() => {
  for (const folder of folders) fs.rmSync(folder, { recursive: true, force: true });
});

let fileCount = 0;
export function freshPath(folder: string): string {
  fileCount += 1;
  return join(folder, `file-${fileCount}`);
}

export function request(options: Record<string, unknown>, readOnly = false): OpenRequest {
  return {
    nodeName: "test",
    options,
    children: { file: null, backing: null },
    readOnly,
    environment,
    inFlight: { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY },
  };
}

const sync = new SyncRunner(environment.clock);
export const runners: Record<string, { run<T>(co: Co<T>): T | Promise<T> }> = {
  blocking: sync,
  "on the event loop": new AsyncRunner(nodeEventLoop()),
};

/** Runs the driver contract over real files. */
export function describeFileDriver(kind: string): void {
  for (const folder of folders) {
    for (const [runnerName, runner] of Object.entries(runners)) {
      describeDriver(`file ${kind}, in ${folder.replace(/-[^-]*$/, "")}, ${runnerName}`, () => {
        const paths = new Map<BlockDriver, string>();
        return {
          *open(length) {
            const path = freshPath(folder);
            yield* createFile(path);
            fs.truncateSync(path, length);
            const driver = yield* fileDriver.open(request({ filename: path }));
            paths.set(driver, path);
            return driver;
          },
          *reopen(closed) {
            const path = paths.get(closed) as string;
            const driver = yield* fileDriver.open(request({ filename: path }));
            paths.set(driver, path);
            return driver;
          },
          run: (co) => runner.run(co),
        };
      });
    }
  }
}
