export { HostBackingPolicy, type HostBackingPolicyOptions } from "./backing-policy.ts";
export {
  type ByteConnection,
  type ByteConnectionOptions,
  socketConnection,
  standardConnection,
} from "./byte-connection.ts";
export { nodeCodecs, portableCodecs } from "./codecs.ts";
export { nodeCryptography } from "./cryptography.ts";
export { blockingDescriptorIo, cachedDescriptorIo, descriptorIo } from "./descriptor-io.ts";
export { nodeEnvironment, nodeEventLoop } from "./environment.ts";
export { fileDriver } from "./file-driver.ts";
export { IoRing } from "./io-ring.ts";
export { linuxCalls } from "./linux-calls.ts";
export { createFile } from "./open-file.ts";
export { RingRunner } from "./ring-runner.ts";
export { nodeSecrets } from "./secrets.ts";
export { MESSAGE_BYTES_MAX, type Received, type SharingCalls, sharingCalls } from "./sharing-calls.ts";
export { readTextFile } from "./text-file.ts";
export { listenForDescriptors, listenUnix, type UnixListener } from "./unix-socket.ts";
