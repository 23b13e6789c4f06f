export { FrontEnd, type FrontEndOptions } from "./front-end/front-end.ts";
export * as message from "./message.ts";
export { type Message, MessageSocket } from "./message-socket.ts";
export { QUEUES_MAX, type VhostUserOptions, VhostUserServer } from "./server.ts";
