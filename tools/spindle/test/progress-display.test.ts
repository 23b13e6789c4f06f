import { Writable } from "node:stream";
import { GiB, MiB } from "@spindle/base";
import type { StreamProgress } from "spindle";
import { describe, expect, it } from "vitest";
import { type DisplayKind, progressDisplay } from "../src/progress-display.ts";

class Screen extends Writable {
  text = "";
  readonly isTTY: boolean;

  constructor(isTTY: boolean) {
    super();
    this.isTTY = isTTY;
  }

  override _write(bytes: Buffer, _encoding: string, done: () => void): void {
    this.text += bytes.toString();
    done();
  }
}

function progress(transferred: number, elapsed: number): StreamProgress {
  const eta = transferred === 0 ? null : 3725.4;
  return { transferred, size: 2 * GiB, elapsed, rate: 512 * MiB, eta, status: "running", ioStatus: "ok" };
}

function shown(kind: DisplayKind, isTTY: boolean): string {
  const screen = new Screen(isTTY);
  const display = progressDisplay(kind, screen);
  display.progress(progress(0, 0));
  display.progress(progress(GiB / 2, 0.4));
  display.progress(progress(GiB, 1.23456));
  display.result(progress(GiB, 2), { outcome: "cancelled", error: "interrupted" });
  return screen.text;
}

describe("the progress of a stream", () => {
  it("is a bar on a terminal, drawn over itself", () => {
    const lines = shown("people", true).split("\r");
    expect(lines[1]).toMatch(/^\[\.{32}\] 0\.0% {2}0 B of 2 GiB {2}512 MiB\/s {2}eta -:--/);
    expect(lines[3]).toMatch(/^\[#{16}\.{16}\] 50\.0% {2}1 GiB of 2 GiB {2}512 MiB\/s {2}eta 1:02:06/);
    expect(lines[4]).toMatch(/^cancelled: 1 GiB of 2 GiB in 2\.0 s, 512 MiB\/s.*\n$/);
  });

  it("is a line a second elsewhere", () => {
    expect(shown("people", false).split("\n")).toEqual([
      "0.0%  0 B of 2 GiB  512 MiB/s  eta -:--",
      "50.0%  1 GiB of 2 GiB  512 MiB/s  eta 1:02:06",
      "cancelled: 1 GiB of 2 GiB in 2.0 s, 512 MiB/s",
      "",
    ]);
  });

  it("is one JSON object a line for programs", () => {
    const lines = shown("json", true).trimEnd().split("\n");
    expect(lines[2]).toBe(
      `{"type":"progress","transferred":${GiB},"size":${2 * GiB},"elapsed":1.235,"rate":${512 * MiB},"eta":3725.4}`,
    );
    expect(JSON.parse(lines[3] as string)).toMatchObject({
      type: "result",
      outcome: "cancelled",
      error: "interrupted",
    });
  });

  it("is nothing when nobody asked for it", () => {
    expect(shown("none", true)).toBe("");
  });
});
