/**
 * zstd as this Node has it built in, called directly. `node:zlib` makes a stream, a context and a buffer for each call, which
 * takes longer than to compress a cluster.
 */
import { assert } from "@spindle/base";
import { koffiLibrary, type NativeCall } from "./koffi-library.ts";

/** The library's default, which `node:zlib` and QEMU take as well. */
const LEVEL = 3;

/** Compresses into one frame, of which the content's length is part, and which is valid until the next call. */
export type CompressZstd = (input: Uint8Array) => Uint8Array;

let loaded: CompressZstd | null | undefined;

/** For the calling thread; null where the library cannot be called, or Node has none. */
export function zstdLibrary(): CompressZstd | null {
  if (loaded === undefined) loaded = load();
  return loaded;
}

function load(): CompressZstd | null {
  const library = koffiLibrary()?.load(null);
  if (library === undefined) return null;
  const call = (prototype: string): NativeCall => library.func(prototype) as NativeCall;
  try {
    const bound = call("size_t ZSTD_compressBound(size_t length)");
    const contextBytes = call("size_t ZSTD_estimateCCtxSize(int level)");
    const initialize = call("intptr_t ZSTD_initStaticCCtx(void *memory, size_t length)");
    const compress = call(
      "size_t ZSTD_compressCCtx(void *context, void *output, size_t room, const void *input, size_t length, int level)",
    );
    // The context lives in memory of this thread, which goes with it.
    const memory = new Uint8Array(contextBytes(LEVEL));
    let output = new Uint8Array(0);
    if (initialize(memory, memory.length) === 0) return null;
    return (input) => {
      const room = bound(input.length);
      if (output.length < room) output = new Uint8Array(room);
      const length = Number(compress(memory, output, output.length, input, input.length, LEVEL));
      assert(length <= room, "zstd keeps its bound");
      return output.subarray(0, length);
    };
  } catch {
    return null;
  }
}
