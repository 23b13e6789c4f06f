/**
 * One QMP client: the greeting, the negotiation, and then a reply for every command in order, with events in between
 * (docs/interop/qmp-spec, monitor/qmp.c).
 */
import { BlockError, type Co } from "@spindle/base";
import type { CommandContext } from "./command.ts";
import type { Connection } from "./connection.ts";
import { dictionaryOrder } from "./dictionary-order.ts";
import { type JsonMessage, JsonReader } from "./json-reader.ts";
import { isJsonObject, type JsonObject, type JsonValue, jsonObject } from "./json-value.ts";
import { writeJson } from "./json-writer.ts";
import { parameterType, parameterUnexpected, parameterValue, QmpError, qmpErrorReply } from "./qmp-error.ts";
import { type SessionHost, SessionLoop } from "./session-loop.ts";

const NEGOTIATE = "qmp_capabilities";

/** Every capability that QMP knows; none of them is offered. */
const CAPABILITIES: readonly string[] = ["oob"];

interface Request {
  readonly command: string;
  readonly argumentValues: JsonObject;
}

export class QmpSession extends SessionLoop {
  readonly #context: CommandContext;
  readonly #reader: JsonReader = new JsonReader();
  #negotiated = false;

  constructor(host: SessionHost, context: CommandContext, connection: Connection) {
    super(host, connection);
    this.#context = context;
    const { major, minor, micro, package: distributor } = context.version;
    const version = { qemu: { major, minor, micro }, package: distributor };
    this.#send({ QMP: { version, capabilities: [] } });
  }

  /** Tells the client of an event, unless it has not negotiated yet. */
  tell(event: object): void {
    if (this.#negotiated) this.#send(event);
  }

  protected override take(bytes: Uint8Array): void {
    this.#reader.push(bytes);
  }

  protected override get waitingBytes(): number {
    return this.#reader.waitingBytes;
  }

  protected override *answerNext(): Co<boolean> {
    const message = this.#reader.next();
    if (message === undefined) return false;
    const id = "value" in message && isJsonObject(message.value) ? message.value["id"] : undefined;
    let reply: object;
    try {
      reply = { return: yield* this.#execute(message), id };
    } catch (error) {
      reply = { error: qmpErrorReply(error), id };
    }
    this.#send(reply);
    return true;
  }

  *#execute(message: JsonMessage): Co<unknown> {
    if ("error" in message) throw new BlockError("EINVAL", message.error);
    const { command, argumentValues } = parseRequest(message.value);
    if (command !== NEGOTIATE && this.#negotiated)
      return (yield* this.#context.execute(command, argumentValues)) ?? jsonObject();
    if (command === NEGOTIATE && !this.#negotiated) {
      checkCapabilities(argumentValues);
      this.#negotiated = true;
      return jsonObject();
    }
    throw new QmpError("CommandNotFound", "EPERM", this.#negotiated ? ALREADY_NEGOTIATED : EXPECTING_NEGOTIATION);
  }

  #send(message: object): void {
    this.send(`${writeJson(message)}\r\n`);
  }
}

const ALREADY_NEGOTIATED = "Capabilities negotiation is already complete, command ignored";
const EXPECTING_NEGOTIATION = `Expecting capabilities negotiation with '${NEGOTIATE}'`;

/** @throws {BlockError} EINVAL with QEMU's text when it is no request. */
function parseRequest(value: JsonValue): Request {
  if (!isJsonObject(value)) throw new BlockError("EINVAL", "QMP input must be a JSON object");
  for (const key of dictionaryOrder(Object.keys(value))) checkMember(key, value[key] as JsonValue);
  const command = value["execute"];
  if (command === undefined) throw new BlockError("EINVAL", "QMP input lacks member 'execute'");
  return { command: command as string, argumentValues: (value["arguments"] as JsonObject | undefined) ?? jsonObject() };
}

function checkMember(key: string, value: JsonValue): void {
  if (key === "execute") {
    if (typeof value !== "string") throw new BlockError("EINVAL", "QMP input member 'execute' must be a string");
  } else if (key === "arguments") {
    if (!isJsonObject(value)) throw new BlockError("EINVAL", "QMP input member 'arguments' must be an object");
  } else if (key !== "id") throw new BlockError("EINVAL", `QMP input member '${key}' is unexpected`);
}

function checkCapabilities({ enable, ...others }: JsonObject): void {
  if (enable !== undefined && !Array.isArray(enable)) throw parameterType("enable", "array");
  const names = enable ?? [];
  names.forEach((name, index) => {
    if (typeof name !== "string") throw parameterType(`enable[${index}]`, "string");
    if (!CAPABILITIES.includes(name)) throw parameterValue(`enable[${index}]`, name);
  });
  const [unexpected] = dictionaryOrder(Object.keys(others));
  if (unexpected !== undefined) throw parameterUnexpected(unexpected);
  if (names.length > 0) throw new BlockError("ENOTSUP", `Capability ${[...new Set(names)].join(", ")} not available`);
}
