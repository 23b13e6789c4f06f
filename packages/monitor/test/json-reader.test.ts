import { SeededRandom } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { JsonReader, NESTING_MAX, TOKENS_MAX } from "../src/json-reader.ts";
import { writeJson } from "../src/json-writer.ts";

/** Reads everything in `input`; values come back as this package writes them, errors behind an exclamation mark. */
function read(input: string | Uint8Array, pieceBytes = Number.POSITIVE_INFINITY): string[] {
  const bytes = typeof input === "string" ? Buffer.from(input) : input;
  const reader = new JsonReader();
  const messages: string[] = [];
  for (let start = 0; start < bytes.length; start += pieceBytes) {
    reader.push(bytes.subarray(start, Math.min(start + pieceBytes, bytes.length)));
    for (let message = reader.next(); message !== undefined; message = reader.next())
      messages.push("value" in message ? writeJson(message.value) : `!${message.error}`);
  }
  return messages;
}

const latin1 = (text: string): Uint8Array => Buffer.from(text, "latin1");

/** A random document, as JSON text with random blanks, of values that JavaScript's own parser reads alike. */
function document(random: SeededRandom, depth: number): string {
  const blank = (): string => random.pick(["", "", " ", "\n", "\t ", "\r\n"]);
  const kind = random.below(depth > 0 ? 8 : 6);
  if (kind === 0) return random.pick(["true", "false", "null"]);
  if (kind === 1) return String(random.below(2 ** 53) * random.pick([1, -1]));
  if (kind === 2) return String((random.u32() - 2 ** 31) / random.pick([3, 7, 1e9, 1e-3]));
  if (kind < 6) return JSON.stringify(text(random));
  const members = Array.from({ length: random.below(5) }, (_, index) => {
    const value = `${blank()}${document(random, depth - 1)}${blank()}`;
    return kind === 6 ? value : `${blank()}${JSON.stringify(`${text(random)}${index}`)}${blank()}:${value}`;
  });
  return kind === 6 ? `[${blank()}${members.join(",")}]` : `{${blank()}${members.join(",")}}`;
}

function text(random: SeededRandom): string {
  const points = Array.from({ length: random.below(12) }, () => {
    const point = random.below(random.pick([0x80, 0x100, 0x3000, 0xd800]));
    return random.chance(0.1) ? 0x10000 + random.below(0xff00) : point;
  });
  return String.fromCodePoint(...points);
}

/** Without prototypes on one side, for `toEqual`. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

describe("reading JSON", () => {
  it("reads whatever JavaScript's parser reads, in pieces of any size", () => {
    for (let seed = 0; seed < 1500; seed++) {
      const random = new SeededRandom(seed);
      const source = document(random, 4);
      const reader = new JsonReader();
      const bytes = Buffer.from(`${source} `);
      const pieceBytes = random.pick([1, 2, 3, 7, 1000]);
      let value: unknown;
      for (let start = 0; start < bytes.length; start += pieceBytes) {
        reader.push(bytes.subarray(start, start + pieceBytes));
        for (let message = reader.next(); message !== undefined; message = reader.next()) value = message;
      }
      expect(plain(value), `seed ${seed}: ${source}`).toEqual({ value: JSON.parse(source) });
    }
  });

  it("writes what it reads so that JavaScript's parser reads the same", () => {
    for (let seed = 0; seed < 500; seed++) {
      const source = document(new SeededRandom(seed), 4);
      const [written] = read(`${source} `);
      expect(JSON.parse(written ?? ""), `seed ${seed}`).toEqual(JSON.parse(source));
    }
  });

  it("needs nothing between values, and takes single quotes", () => {
    expect(read("{}[]'a'\"b\"1 true")).toEqual(["{}", "[]", '"a"', '"b"', "1"]);
    expect(read("{'a':'it\\'s \"x\"'}")).toEqual(['{"a": "it\'s \\"x\\""}']);
  });

  it("keeps integers exactly, in 64 bits", () => {
    for (const digits of ["9007199254740991", "9007199254740993", "-9223372036854775808", "18446744073709551615"])
      expect(read(`${digits} `)).toEqual([digits]);
    expect(read("18446744073709551616 -9223372036854775809 ")).toEqual([
      "1.8446744073709552e+19",
      "-9.2233720368547758e+18",
    ]);
    expect(read("-0 -0.0 1e3 0.1 1.5e-7 1e100 123456.789e3 ")).toEqual([
      "0",
      "-0",
      "1000",
      "0.10000000000000001",
      "1.4999999999999999e-07",
      "1e+100",
      "123456789",
    ]);
  });

  it.each([
    ['{"a":}', "expecting value"],
    ['{"a" 1}', "missing : in object pair"],
    ['{"a":1 "b"}', "expected separator in dict"],
    ["[1 2]", "expected separator in list"],
    ["[1,]", "expecting value"],
    ["{]", "expecting value"],
    ["}", "expecting value"],
    [",", "expecting value"],
    ["{1:2}", "key is not a string in object"],
    ["{[]:2}", "key is not a string in object"],
    ["{nul:2}", "invalid keyword 'nul'"],
    ['{"a":1,"a":2}', "duplicate key"],
    ['{"__proto__":1,"__proto__":2}', "duplicate key"],
    ['"\\x"', "invalid escape sequence in string"],
    ['"\\u12G4"', "\\u12G4 is not a valid Unicode character"],
    ['"\\ud800"', "\\ud800 is not a valid Unicode character"],
    ['"\\ud800\\u0041"', "\\ud800 is not a valid Unicode character"],
    ['"\\udc00"', "\\udc00 is not a valid Unicode character"],
    ['"\\uffff"', "\\uffff is not a valid Unicode character"],
    ['"\\u00"', '\\u00" is not a valid Unicode character'],
  ])("refuses %s in QEMU's words and goes on behind it", (source, error) => {
    expect(read(`${source}{"ok":1}`)).toEqual([`!JSON parse error, ${error}`, '{"ok": 1}']);
  });

  it.each([
    ["01 ", "01"],
    ["1.}", "1.}"],
    ["+1\n", "+"],
    ['"a\tb', '"a\t'],
    ['"a\0', '"a'],
    ['"a\xff', '"a\ufffd'],
    ["@@@ ", "@"],
    ["/* */", "/"],
  ])("skips what is no token in %j", (source, stray) => {
    expect(read(latin1(`${source}\n{"ok":1}`))).toEqual([`!JSON parse error, stray '${stray}'`, '{"ok": 1}']);
  });

  it("refuses bytes that are no UTF-8, and knows QEMU's way of writing NUL", () => {
    for (const bytes of ["\xc3", "\xed\xa0\x80", "\xc1\xbf", "\x80", "\xf4\x90\x80\x80", "\xef\xbf\xbf"])
      expect(read(latin1(`"${bytes}"`))).toEqual(["!JSON parse error, invalid UTF-8 sequence in string"]);
    expect(read(latin1('"\xc0\x80\\u0000"'))).toEqual(['"\\u0000\\u0000"']);
  });

  it("gives keys that are named like parts of every object no meaning", () => {
    const [written] = read('{"__proto__":{"polluted":1},"constructor":2,"toString":3,"a":{"__proto__":null}}');
    expect(JSON.parse(written ?? "")).toEqual(
      JSON.parse('{"__proto__":{"polluted":1},"constructor":2,"toString":3,"a":{"__proto__":null}}'),
    );
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  it("reads nesting up to the limit and refuses more at the bracket that exceeds it", () => {
    const deep = (depth: number): string => "[".repeat(depth) + "]".repeat(depth);
    expect(read(deep(NESTING_MAX))).toEqual([deep(NESTING_MAX)]);
    expect(read("[".repeat(NESTING_MAX + 1))).toEqual(["!JSON nesting depth limit exceeded"]);
    expect(read(`${'{"a":'.repeat(NESTING_MAX)}{`)).toEqual(["!JSON nesting depth limit exceeded"]);
  });

  it("survives 100,000 nested arrays", () => {
    const messages = read(`${"[".repeat(1e5)}${"]".repeat(1e5)}{"ok":1}`);
    expect(messages.at(0)).toBe("!JSON nesting depth limit exceeded");
    expect(messages.at(-1)).toBe('{"ok": 1}');
  });

  it("refuses more tokens than a value may have", () => {
    const pairs = "0,".repeat(TOKENS_MAX / 2 - 2);
    expect(read(`[${pairs}0]`).map((message) => message.length)).toEqual([(TOKENS_MAX / 2 - 1) * 3]);
    expect(read(`[${pairs}0,0]`)).toEqual(["!JSON token count limit exceeded"]);
  });

  it("refuses values of more than 64 MiB, whether in one string or in many, and goes on", () => {
    const megabyte = Buffer.alloc(1024 * 1024, "a");
    for (const opening of ['{"a": "', "[1, 'b', '"]) {
      const reader = new JsonReader();
      reader.push(Buffer.from(opening));
      const messages: unknown[] = [];
      for (let count = 0; count < 70 && messages.length === 0; count++) {
        reader.push(megabyte);
        const message = reader.next();
        if (message !== undefined) messages.push(message);
      }
      expect(messages).toEqual([{ error: "JSON token size limit exceeded" }]);
      reader.push(Buffer.from('\n{"ok":1}'));
      for (let message = reader.next(); message !== undefined; message = reader.next()) messages.push(message);
      expect(plain(messages.at(-1))).toEqual({ value: { ok: 1 } });
    }
  });

  it("takes time in proportion to the input", () => {
    // Processor time: what else the machine does is not counted.
    const milliseconds = (source: Buffer): number => {
      const start = process.cpuUsage();
      read(source, 1000);
      return process.cpuUsage(start).user / 1000;
    };
    const shapes = [
      (size: number) => `"${"é".repeat(size / 2)}\\n"`,
      (size: number) => `"${"\\u00e9".repeat(size / 6)}"`,
      (size: number) => `[${"1,".repeat(size / 2)}1]`,
      (size: number) => `{${Array.from({ length: size / 16 }, (_, index) => `"k${index}":1`).join(",")}}`,
      (size: number) => "@".repeat(size),
      (size: number) => "1".repeat(size),
    ];
    for (const shape of shapes) {
      const small = Buffer.from(shape(50_000));
      const large = Buffer.from(shape(400_000));
      milliseconds(small);
      // Eight times the input: what is quadratic takes 64 times as long.
      expect(milliseconds(large)).toBeLessThan(20 * milliseconds(small) + 300);
    }
  });
});
