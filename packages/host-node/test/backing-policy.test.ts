import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SyncRunner } from "@spindle/base";
import { afterAll, describe, expect, it } from "vitest";
import { fileDriver, HostBackingPolicy, nodeEnvironment } from "../src/index.ts";
import { request } from "./file-harness.ts";

const runner = new SyncRunner(nodeEnvironment().clock);
const root = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), "spindle-backing-")));
afterAll(() => fs.rmSync(root, { recursive: true, force: true }));

for (const folder of ["images/bases/old", "images-secret", "elsewhere"])
  fs.mkdirSync(join(root, folder), { recursive: true });
for (const file of [
  "images/top.qcow2",
  "images/base.raw",
  "images/bases/deep.raw",
  "images/bases/old/oldest.raw",
  "images/..hidden.raw",
  "images-secret/key",
  "elsewhere/base.raw",
  "secret",
])
  fs.writeFileSync(join(root, file), file);
fs.symlinkSync(join(root, "secret"), join(root, "images/link-to-secret"));
fs.symlinkSync("bases/deep.raw", join(root, "images/link-inside"));
fs.symlinkSync(join(root, "elsewhere"), join(root, "images/folder-link"));
fs.symlinkSync(join(root, "images/top.qcow2"), join(root, "elsewhere/top-link.qcow2"));

const top = join(root, "images/top.qcow2");

/** The path below the root of the test, or the error's code. */
function resolve(name: string, image = top, named = top, allowedFolders: string[] = []): string {
  try {
    const backing = { filename: name, format: "raw" };
    return runner.run(new HostBackingPolicy({ allowedFolders }).resolve(image, backing, named)).slice(root.length + 1);
  } catch (error) {
    return (error as { code: string }).code;
  }
}

describe("backing policy", () => {
  it("allows files of the image's own folder and below", () => {
    expect(resolve("base.raw")).toBe("images/base.raw");
    expect(resolve("./bases/deep.raw")).toBe("images/bases/deep.raw");
    expect(resolve(join(root, "images/base.raw"))).toBe("images/base.raw");
    expect(resolve("bases/../base.raw")).toBe("images/base.raw");
    expect(resolve("..hidden.raw")).toBe("images/..hidden.raw");
    expect(resolve("link-inside")).toBe("images/bases/deep.raw");
  });

  it("judges deeper layers by the image that the user named", () => {
    const deep = join(root, "images/bases/deep.raw");
    expect(resolve("../base.raw", deep)).toBe("images/base.raw");
    expect(resolve("old/oldest.raw", deep)).toBe("images/bases/old/oldest.raw");
    expect(resolve("../../secret", deep)).toBe("EACCES");
    expect(resolve("../base.raw", deep, deep)).toBe("EACCES");
  });

  it("refuses what lies elsewhere, however it is named", () => {
    for (const name of [
      "../secret",
      join(root, "secret"),
      "../images-secret/key",
      join(root, "images-secret/key"),
      "link-to-secret",
      "folder-link/base.raw",
      "bases/../../secret",
      "/etc/passwd",
      "..",
    ])
      expect(resolve(name), name).toBe("EACCES");
  });

  it("says which option would allow it", () => {
    const backing = { filename: "../elsewhere/base.raw", format: null };
    expect(() => runner.run(new HostBackingPolicy().resolve(top, backing, top))).toThrow(
      `--allow-backing=${join(root, "elsewhere")}`,
    );
    expect(resolve("../elsewhere/base.raw", top, top, [join(root, "elsewhere")])).toBe("elsewhere/base.raw");
    expect(resolve("link-to-secret", top, top, [join(root, "elsewhere")])).toBe("EACCES");
  });

  it("refuses names that are not those of files", () => {
    for (const name of [
      "json:{}",
      'json:{"driver":"file","filename":"base.raw"}',
      "nbd://localhost/x",
      "nbd+unix:///?socket=/x",
      "http://127.0.0.1/",
      "fd:3",
      "data:,x",
      "file:base.raw",
      "FILE:///etc/passwd",
      "base.raw\0",
      "",
      "x".repeat(5000),
    ])
      expect(resolve(name), name).toBe("EACCES");
  });

  it("refuses devices and processes even in folders that are allowed", () => {
    const all = ["/"];
    expect(resolve("/etc/passwd", top, top, all)).not.toBe("EACCES");
    for (const name of ["/dev/null", "/dev/../dev/zero", "/proc/self/environ", "/proc/self/fd/0"])
      expect(resolve(name, top, top, all), name).toBe("EACCES");
  });

  it("follows the user's own link to the image, for relative names and for neighbours", () => {
    const link = join(root, "elsewhere/top-link.qcow2");
    expect(resolve("base.raw", link, link)).toBe("elsewhere/base.raw");
    expect(resolve(join(root, "images/base.raw"), link, link)).toBe("images/base.raw");
    expect(resolve("../secret", link, link)).toBe("EACCES");
  });

  it("says that a file is not there", () => {
    expect(resolve("absent.raw")).toBe("ENOENT");
  });

  it("notices a file that was swapped for a link between the look and the opening", () => {
    const policy = new HostBackingPolicy();
    const victim = join(root, "images/swapped.raw");
    const open = (filename: string): string | undefined => {
      const driver = runner.run(fileDriver.open(request({ filename }, true)));
      runner.run(driver.close());
      return driver.identity;
    };
    fs.writeFileSync(victim, "fine");
    const path = runner.run(policy.resolve(top, { filename: "swapped.raw", format: "raw" }, top));
    runner.run(policy.confirm(path, open(path)));
    fs.unlinkSync(victim);
    fs.symlinkSync(join(root, "secret"), victim);
    const opened = open(path);
    const confirm = (): void => runner.run(policy.confirm(path, opened));
    expect(confirm).toThrow(expect.objectContaining({ code: "EACCES" }));
    fs.unlinkSync(victim);
    fs.writeFileSync(victim, "fine again");
    expect(confirm).toThrow(expect.objectContaining({ code: "EACCES" }));
  });
});
