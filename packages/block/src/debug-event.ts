/**
 * What formats tell the node below them of before they do it, by QEMU's names: who listens (`blkdebug`) can let it fail or
 * stop there. Names that no format here has a place for are known nevertheless.
 */

const DEBUG_EVENTS = [
  "l1_update",
  "l1_grow_alloc_table",
  "l1_grow_write_table",
  "l1_grow_activate_table",
  "l2_load",
  "l2_update",
  "l2_update_compressed",
  "l2_alloc_cow_read",
  "l2_alloc_write",
  "read_aio",
  "read_backing_aio",
  "read_compressed",
  "write_aio",
  "write_compressed",
  "vmstate_load",
  "vmstate_save",
  "cow_read",
  "cow_write",
  "reftable_load",
  "reftable_grow",
  "reftable_update",
  "refblock_load",
  "refblock_update",
  "refblock_update_part",
  "refblock_alloc",
  "refblock_alloc_hookup",
  "refblock_alloc_write",
  "refblock_alloc_write_blocks",
  "refblock_alloc_write_table",
  "refblock_alloc_switch_table",
  "cluster_alloc",
  "cluster_alloc_bytes",
  "cluster_free",
  "flush_to_os",
  "flush_to_disk",
  "pwritev_rmw_head",
  "pwritev_rmw_after_head",
  "pwritev_rmw_tail",
  "pwritev_rmw_after_tail",
  "pwritev",
  "pwritev_zero",
  "pwritev_done",
  "empty_image_prepare",
  "l1_shrink_write_table",
  "l1_shrink_free_l2_clusters",
  "cor_write",
  "cluster_alloc_space",
  "none",
] as const;

export type DebugEvent = (typeof DEBUG_EVENTS)[number];

export function isDebugEvent(name: string): name is DebugEvent {
  return (DEBUG_EVENTS as readonly string[]).includes(name);
}

/** Places at which requests stop until they are told to go on. */
export interface Breakpoints {
  /**
   * Stops the next request that comes by. It goes by once: who comes later does not stop.
   * @param stopped called when a request has stopped
   * @param resumed called when it goes on
   * @throws {BlockError} ENOENT when there is no such event.
   */
  set(event: string, tag: string, listener: BreakpointListener): void;
  /** Takes breakpoints away, and lets go on what has stopped at such. @returns whether nobody had come by yet. */
  remove(tag: string): boolean;
  /** Lets one request go on. @returns false when none has stopped there. */
  resume(tag: string): boolean;
  isSuspended(tag: string): boolean;
}

export interface BreakpointListener {
  stopped(tag: string): void;
  resumed(tag: string): void;
}
