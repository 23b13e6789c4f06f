/** What `spindle demo` can be told. */

export interface DemoOptions {
  /** An image of the user's own as the base; the demo makes one when it is absent. */
  readonly image: string | undefined;
  readonly format: string | undefined;
  readonly guests: number;
  /** Whether the guests' virtqueues are packed rings. */
  readonly packed: boolean;
  readonly workers: number;
  /** Bytes of one copy; the stream's own choice when absent. */
  readonly chunk: number | undefined;
  readonly seed: number;
  /** How long the guests run before the stream begins, and again after it has ended. */
  readonly seconds: number;
  readonly json: boolean;
}
