import { afterEach, describe, expect, it } from "vitest";
import { peer } from "../src/peers.ts";

describe("peers", () => {
  const before = process.env["SPINDLE_REQUIRE_PEERS"];
  afterEach(() => {
    if (before === undefined) delete process.env["SPINDLE_REQUIRE_PEERS"];
    else process.env["SPINDLE_REQUIRE_PEERS"] = before;
  });

  it("finds a program in the PATH", () => {
    expect(peer("sh")).toMatch(/^\/.*\/sh$/);
  });

  it("answers undefined for a program that is not there, or throws where it is required", () => {
    delete process.env["SPINDLE_REQUIRE_PEERS"];
    expect(peer("spindle-no-such-program")).toBeUndefined();
    process.env["SPINDLE_REQUIRE_PEERS"] = "1";
    expect(() => peer("spindle-no-such-program")).toThrow(/required/);
  });
});
