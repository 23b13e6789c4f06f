/**
 * Reads JSON values from a stream of bytes as QEMU does (qobject/json-streamer.c, json-parser.c): values need nothing
 * between them, an error is told when the brackets of its value are balanced, and reading goes on behind it. Nothing is
 * recursive, each byte and each token is looked at once, and what one value may cost is limited.
 */
import { assert } from "@spindle/base";
import { JsonLexer, type TokenType, VALUE_BYTES_MAX } from "./json-lexer.ts";
import { floatValue, integerValue, JsonSyntaxError, keywordValue, quoted, stringValue } from "./json-scalar.ts";
import { type JsonObject, type JsonValue, jsonObject } from "./json-value.ts";

/** How deep arrays and objects may nest. */
export const NESTING_MAX = 1024;

/** The most tokens of one value. */
export const TOKENS_MAX: number = 2 * 1024 * 1024;

/** A value, or why there is none: QEMU's text. */
export type JsonMessage = { readonly value: JsonValue } | { readonly error: string };

/** What an array or object that is being read may be followed by. */
type Expectation =
  /** A first element or key, or the end. */
  | "first"
  | "key"
  | "colon"
  | "value"
  /** A comma or the end. */
  | "separator";

type Frame =
  | { readonly kind: "array"; readonly items: JsonValue[]; expects: Expectation }
  | { readonly kind: "object"; readonly entries: JsonObject; expects: Expectation; key: string };

export class JsonReader {
  readonly #lexer: JsonLexer = new JsonLexer();
  #frames: Frame[] = [];
  #value: JsonValue | undefined;
  #error: string | undefined;
  #braces = 0;
  #brackets = 0;
  #tokens = 0;
  #bytes = 0;

  /** Takes bytes that follow those before. They must not change afterwards. */
  push(bytes: Uint8Array): void {
    this.#lexer.push(bytes);
  }

  /** Bytes that have been pushed and not yet been looked at. */
  get waitingBytes(): number {
    return this.#lexer.waitingBytes;
  }

  /** The next value or error; undefined when more bytes are needed. */
  next(): JsonMessage | undefined {
    for (let type = this.#lexer.next(); type !== undefined; type = this.#lexer.next()) {
      const message = this.#take(type);
      if (message !== undefined) return message;
    }
    return undefined;
  }

  #take(type: TokenType): JsonMessage | undefined {
    this.#count(type);
    const refusal = this.#refusal(type);
    if (refusal !== undefined) {
      this.#reset();
      return { error: refusal };
    }
    this.#bytes += this.#lexer.text.length;
    this.#tokens += 1;
    if (this.#error === undefined) this.#parse(type);
    const open = (this.#braces > 0 || this.#brackets > 0) && this.#braces >= 0 && this.#brackets >= 0;
    return open ? undefined : this.#finish();
  }

  #count(type: TokenType): void {
    if (type === "{") this.#braces += 1;
    else if (type === "}") this.#braces -= 1;
    else if (type === "[") this.#brackets += 1;
    else if (type === "]") this.#brackets -= 1;
  }

  /** Why the token ends the value at once. */
  #refusal(type: TokenType): string | undefined {
    const { text } = this.#lexer;
    if (type === "stray") return `JSON parse error, stray '${quoted(text)}'`;
    if (this.#bytes + text.length + 1 > VALUE_BYTES_MAX) return "JSON token size limit exceeded";
    if (this.#tokens + 1 > TOKENS_MAX) return "JSON token count limit exceeded";
    if (this.#braces + this.#brackets > NESTING_MAX) return "JSON nesting depth limit exceeded";
    return undefined;
  }

  #finish(): JsonMessage {
    const error = this.#error;
    const value = this.#value;
    this.#reset();
    if (error !== undefined) return { error: `JSON parse error, ${error}` };
    assert(value !== undefined, "balanced brackets without a value");
    return { value };
  }

  #reset(): void {
    this.#frames = [];
    this.#value = undefined;
    this.#error = undefined;
    this.#braces = 0;
    this.#brackets = 0;
    this.#tokens = 0;
    this.#bytes = 0;
  }

  #parse(type: TokenType): void {
    try {
      this.#accept(type);
    } catch (error) {
      if (!(error instanceof JsonSyntaxError)) throw error;
      this.#error = error.message;
      // What was read so far is of no use; only the brackets are still counted.
      this.#frames = [];
    }
  }

  #accept(type: TokenType): void {
    const frame = this.#frames.at(-1);
    if (frame === undefined) this.#begin(type);
    else if (frame.expects === "separator") this.#separate(frame, type);
    else if (frame.expects === "colon") {
      if (type !== ":") throw new JsonSyntaxError("missing : in object pair");
      frame.expects = "value";
    } else if (frame.expects === "first" && type === (frame.kind === "array" ? "]" : "}")) this.#close(frame);
    else this.#begin(type);
  }

  #separate(frame: Frame, type: TokenType): void {
    const array = frame.kind === "array";
    if (type === (array ? "]" : "}")) this.#close(frame);
    else if (type === ",") frame.expects = array ? "value" : "key";
    else throw new JsonSyntaxError(`expected separator in ${array ? "list" : "dict"}`);
  }

  #begin(type: TokenType): void {
    if (type === "{") this.#frames.push({ kind: "object", entries: jsonObject(), expects: "first", key: "" });
    else if (type === "[") this.#frames.push({ kind: "array", items: [], expects: "first" });
    else this.#deliver(this.#scalar(type));
  }

  #scalar(type: TokenType): JsonValue {
    const { text } = this.#lexer;
    if (type === "string") return stringValue(text);
    if (type === "integer") return integerValue(text);
    if (type === "float") return floatValue(text);
    if (type === "keyword") return keywordValue(text);
    throw new JsonSyntaxError("expecting value");
  }

  #close(frame: Frame): void {
    this.#frames.pop();
    this.#deliver(frame.kind === "array" ? frame.items : frame.entries);
  }

  /** Puts a complete value where it belongs. */
  #deliver(value: JsonValue): void {
    const frame = this.#frames.at(-1);
    if (frame === undefined) this.#value = value;
    else if (frame.kind === "array") {
      frame.items.push(value);
      frame.expects = "separator";
    } else if (frame.expects === "value") {
      if (frame.key in frame.entries) throw new JsonSyntaxError("duplicate key");
      frame.entries[frame.key] = value;
      frame.expects = "separator";
    } else {
      if (typeof value !== "string") throw new JsonSyntaxError("key is not a string in object");
      frame.key = value;
      frame.expects = "colon";
    }
  }
}
