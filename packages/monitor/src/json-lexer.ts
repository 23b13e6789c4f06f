/**
 * Cuts a stream of bytes into JSON tokens as QEMU's lexer does (qobject/json-lexer.c): strings in double or single
 * quotes, no comments, and after a byte that fits nowhere everything is skipped up to the next control character (but
 * no tab) or structural character. Each byte is looked at once.
 */

export type TokenType =
  | "{"
  | "}"
  | "["
  | "]"
  | ":"
  | ","
  | "string"
  | "integer"
  | "float"
  | "keyword"
  /** Bytes that are no token; the text holds them. */
  | "stray"
  /** A token that is longer than any value may be, cut off. */
  | "oversize";

/** The longest token in bytes, and the longest value in bytes of its tokens. */
export const VALUE_BYTES_MAX: number = 64 * 1024 * 1024;

/** A buffer for tokens that is larger than this is not kept for the next token. */
const KEPT_BYTES_MAX = 64 * 1024;

const NOTHING = new Uint8Array(0);

type NumberStateName =
  | "sign"
  | "zero"
  | "digits"
  | "point"
  | "fraction"
  | "exponent"
  | "exponent sign"
  | "exponent digits";

type State = "start" | "string" | "escape" | "keyword" | "recovery" | NumberStateName;

type KindInNumber = "zero" | "digit" | "point" | "exponent" | "sign" | "other";

/** What a number that has come so far may go on with, and what it is when it does not. */
interface NumberState {
  readonly next: Readonly<Partial<Record<KindInNumber, NumberStateName | "stray">>>;
  readonly ends?: "integer" | "float";
}

const NUMBER_STATES: Readonly<Record<NumberStateName, NumberState>> = {
  sign: { next: { zero: "zero", digit: "digits" } },
  zero: { next: { zero: "stray", digit: "stray", point: "point" }, ends: "integer" },
  digits: { next: { zero: "digits", digit: "digits", point: "point", exponent: "exponent" }, ends: "integer" },
  point: { next: { zero: "fraction", digit: "fraction" } },
  fraction: { next: { zero: "fraction", digit: "fraction", exponent: "exponent" }, ends: "float" },
  exponent: { next: { zero: "exponent digits", digit: "exponent digits", sign: "exponent sign" } },
  "exponent sign": { next: { zero: "exponent digits", digit: "exponent digits" } },
  "exponent digits": { next: { zero: "exponent digits", digit: "exponent digits" }, ends: "float" },
};

const STRUCTURAL: ReadonlyMap<number, TokenType> = new Map(
  (["{", "}", "[", "]", ":", ","] as const).map((type) => [type.charCodeAt(0), type]),
);
const DOUBLE_QUOTE = 0x22;
const SINGLE_QUOTE = 0x27;
const BACKSLASH = 0x5c;
const TAB = 0x09;

export class JsonLexer {
  #chunks: Uint8Array[] = [];
  #nextChunk = 0;
  #chunk: Uint8Array = NOTHING;
  #position = 0;
  #state: State = "start";
  #quote = DOUBLE_QUOTE;
  #text: Uint8Array = new Uint8Array(256);
  #length = 0;
  /** The next token begins with an empty text. */
  #fresh = true;
  #waitingBytes = 0;

  /** Takes bytes that follow those before. They must not change afterwards. */
  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#chunks.push(bytes);
    this.#waitingBytes += bytes.length;
  }

  /** Bytes that have been pushed and not yet been looked at. */
  get waitingBytes(): number {
    return this.#waitingBytes + this.#chunk.length - this.#position;
  }

  /** The bytes of the last token, valid until the next call of {@link next}; strings with their quotes. */
  get text(): Uint8Array {
    return this.#text.subarray(0, this.#length);
  }

  /** The next token, or undefined when the bytes end first. */
  next(): TokenType | undefined {
    if (this.#fresh) this.#clear();
    for (;;) {
      if (this.#position === this.#chunk.length && !this.#advance()) return undefined;
      const token = this.#step(this.#chunk[this.#position] as number);
      if (token !== undefined) return this.#end(token, token === "stray" ? "recovery" : "start");
      if (this.#length > VALUE_BYTES_MAX) return this.#end("oversize", "start");
    }
  }

  #end(token: TokenType, state: State): TokenType {
    this.#state = state;
    this.#fresh = true;
    return token;
  }

  #clear(): void {
    this.#fresh = false;
    this.#length = 0;
    if (this.#text.length > KEPT_BYTES_MAX) this.#text = new Uint8Array(256);
  }

  #advance(): boolean {
    const chunk = this.#chunks[this.#nextChunk];
    this.#position = 0;
    if (chunk === undefined) {
      this.#chunks = [];
      this.#nextChunk = 0;
      this.#chunk = NOTHING;
      return false;
    }
    this.#nextChunk += 1;
    this.#chunk = chunk;
    this.#waitingBytes -= chunk.length;
    return true;
  }

  /** Looks at one byte; takes it unless it ends a token to which it does not belong. */
  #step(byte: number): TokenType | undefined {
    switch (this.#state) {
      case "start":
        return this.#begin(byte);
      case "string":
        return this.#inString(byte);
      case "escape":
        return isPlain(byte) ? this.#take(byte, "string") : this.#stray(byte);
      case "keyword":
        return isLetter(byte) ? this.#take(byte, "keyword") : "keyword";
      case "recovery":
        if ((byte < 0x20 && byte !== TAB) || byte > 0xfd || STRUCTURAL.has(byte)) this.#state = "start";
        else this.#position += 1;
        return undefined;
      default:
        return this.#inNumber(byte, NUMBER_STATES[this.#state]);
    }
  }

  #begin(byte: number): TokenType | undefined {
    if (byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === TAB) {
      this.#position += 1;
      return undefined;
    }
    const structural = STRUCTURAL.get(byte);
    if (structural !== undefined) {
      this.#take(byte, "start");
      return structural;
    }
    if (byte === DOUBLE_QUOTE || byte === SINGLE_QUOTE) {
      this.#quote = byte;
      return this.#take(byte, "string");
    }
    if (byte === 0x30) return this.#take(byte, "zero");
    if (isDigit(byte)) return this.#take(byte, "digits");
    if (byte === 0x2d) return this.#take(byte, "sign");
    if (isLetter(byte)) return this.#take(byte, "keyword");
    return this.#stray(byte);
  }

  #inString(byte: number): TokenType | undefined {
    if (byte === this.#quote) {
      this.#take(byte, "start");
      return "string";
    }
    if (byte === BACKSLASH) return this.#take(byte, "escape");
    if (!isPlain(byte)) return this.#stray(byte);
    const start = this.#position;
    const end = Math.min(this.#chunk.length, start + VALUE_BYTES_MAX + 1 - this.#length);
    let index = start + 1;
    while (index < end && this.#isOrdinary(this.#chunk[index] as number)) index += 1;
    this.#append(this.#chunk.subarray(start, index));
    this.#position = index;
    return undefined;
  }

  #isOrdinary(byte: number): boolean {
    return isPlain(byte) && byte !== this.#quote && byte !== BACKSLASH;
  }

  #inNumber(byte: number, { next, ends }: NumberState): TokenType | undefined {
    const state = next[kindInNumber(byte)];
    if (state === "stray" || (state === undefined && ends === undefined)) return this.#stray(byte);
    return state === undefined ? ends : this.#take(byte, state);
  }

  #stray(byte: number): TokenType {
    this.#take(byte, "recovery");
    return "stray";
  }

  #take(byte: number, state: State): undefined {
    this.#reserve(1);
    this.#text[this.#length++] = byte;
    this.#position += 1;
    this.#state = state;
  }

  #append(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#text.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  #reserve(count: number): void {
    const wanted = this.#length + count;
    if (wanted <= this.#text.length) return;
    const grown = new Uint8Array(Math.max(wanted, Math.min(this.#text.length * 2, VALUE_BYTES_MAX + 1)));
    grown.set(this.text);
    this.#text = grown;
  }
}

function kindInNumber(byte: number): KindInNumber {
  if (byte === 0x30) return "zero";
  if (isDigit(byte)) return "digit";
  if (byte === 0x2e) return "point";
  if (byte === 0x65 || byte === 0x45) return "exponent";
  return byte === 0x2b || byte === 0x2d ? "sign" : "other";
}

/** What a string may hold as it is. */
function isPlain(byte: number): boolean {
  return byte >= 0x20 && byte <= 0xfd;
}

function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}

function isLetter(byte: number): boolean {
  return byte >= 0x61 && byte <= 0x7a;
}
