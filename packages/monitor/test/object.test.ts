/** `object-add` and `object-del` of secrets. */
import { describe, expect, it } from "vitest";
import { MonitorRig } from "./monitor-rig.ts";

describe("a secret", () => {
  it("is added and removed by its id", () => {
    const rig = new MonitorRig();
    const client = rig.qmp();
    const add = (properties: object) => client.execute("object-add", properties as never).at(-1);
    const secret = { "qom-type": "secret", id: "sec0" };
    expect(add({ ...secret, data: "abc" })).toContain('"return": {}');
    expect(add({ ...secret, id: "b64", data: "YWJj", format: "base64" })).toContain('"return": {}');
    const bytes = new TextEncoder().encode("abc");
    expect([rig.secrets.get("sec0"), rig.secrets.get("b64")]).toEqual([bytes, bytes]);
    expect(add({ ...secret, data: "x" })).toContain("attempt to add duplicate property 'sec0'");
    expect(client.execute("object-del", { id: "sec0" }).at(-1)).toContain('"return": {}');
    expect(client.execute("object-del", { id: "sec0" }).at(-1)).toContain("object 'sec0' not found");
    expect(rig.secrets.get("sec0")).toBeUndefined();
  });

  it.each([
    [{}, "Parameter 'qom-type' is missing"],
    [{ "qom-type": "secret" }, "Parameter 'id' is missing"],
    [{ "qom-type": "iothread", id: "x" }, "Parameter 'qom-type' does not accept value 'iothread'"],
    [{ "qom-type": "secret", id: "1x", data: "a" }, "Parameter 'id' expects an identifier"],
    [{ "qom-type": "secret", id: "x" }, "Either 'file' or 'data' must be provided"],
    [{ "qom-type": "secret", id: "x", data: "a", file: "b" }, "'file' and 'data' are mutually exclusive"],
    [{ "qom-type": "secret", id: "x", data: 5 }, "Invalid parameter type for 'data', expected: string"],
    [{ "qom-type": "secret", id: "x", data: "a", format: "y" }, "Parameter 'format' does not accept value 'y'"],
    [{ "qom-type": "secret", id: "x", data: "a!", format: "base64" }, "Base64 data contains invalid characters"],
    [{ "qom-type": "secret", id: "x", data: "a", foo: "b" }, "Parameter 'foo' is unexpected"],
    [{ "qom-type": "secret", id: "x", data: "a", keyid: "b" }, "encrypted secrets are not supported: 'keyid'"],
  ])("is refused in QEMU's words: %j", (properties, reason) => {
    const rig = new MonitorRig();
    expect(
      rig
        .qmp()
        .execute("object-add", properties as never)
        .at(-1),
    ).toContain(reason);
  });
});
