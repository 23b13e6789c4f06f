/** All commands of the program. Each is loaded when it is asked for, because starting counts in short commands. */
import type { CommandTable } from "./command.ts";

export const COMMANDS: CommandTable = {
  demo: {
    summary: "stream a live image under guests and verify every sector",
    load: async () => (await import("./commands/demo.ts")).demo,
  },
  create: {
    summary: "create an image",
    load: async () => (await import("./commands/create.ts")).create,
  },
  info: {
    summary: "tell what an image is",
    load: async () => (await import("./commands/info.ts")).info,
  },
  check: {
    summary: "look for what is wrong in an image, and repair it",
    load: async () => (await import("./commands/check.ts")).check,
  },
  map: {
    summary: "list where a disk's content stands in its chain of images",
    load: async () => (await import("./commands/map.ts")).map,
  },
  compare: {
    summary: "compare the contents of two images",
    load: async () => (await import("./commands/compare.ts")).compare,
  },
  convert: {
    summary: "copy what images show into a new one",
    load: async () => (await import("./commands/convert.ts")).convert,
  },
  io: {
    summary: "read and write an image command by command",
    load: async () => (await import("./commands/io.ts")).io,
  },
  commit: {
    summary: "write what an image holds into an image below it",
    load: async () => (await import("./commands/commit.ts")).commit,
  },
  rebase: {
    summary: "put another backing file below an image",
    load: async () => (await import("./commands/rebase.ts")).rebase,
  },
  measure: {
    summary: "tell how long the file of a new image becomes",
    load: async () => (await import("./commands/measure.ts")).measure,
  },
  dd: {
    summary: "copy part of what an image shows into a new one",
    load: async () => (await import("./commands/dd.ts")).dd,
  },
  bench: {
    summary: "read or write an image as fast as it can be",
    load: async () => (await import("./commands/bench.ts")).bench,
  },
  resize: {
    summary: "make a disk longer or shorter",
    load: async () => (await import("./commands/resize.ts")).resize,
  },
  amend: {
    summary: "change what an image was created with",
    load: async () => (await import("./commands/amend.ts")).amend,
  },
  bitmap: {
    summary: "change the persistent bitmaps of an image",
    load: async () => (await import("./commands/bitmap.ts")).bitmap,
  },
  snapshot: {
    summary: "keep states of a disk inside of its image",
    load: async () => (await import("./commands/snapshot.ts")).snapshot,
  },
  stream: {
    summary: "fill an image from its backing chain, and drop the chain",
    load: async () => (await import("./commands/stream.ts")).stream,
  },
  serve: {
    summary: "serve an image to a virtual machine as a vhost-user-blk device",
    load: async () => (await import("./commands/serve.ts")).serve,
  },
  daemon: {
    summary: "open a graph of images and take commands over QMP and HMP",
    load: async () => (await import("./commands/daemon.ts")).daemon,
  },
  completion: {
    summary: "print a script with which a shell completes words",
    load: async () => (await import("./commands/completion.ts")).completionOf(COMMANDS),
  },
};
