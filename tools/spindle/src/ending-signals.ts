/** Signals that ask a program to end: the first lets it end in order, the second ends it at once. */
import { ENDING_SIGNALS, type EndingSignal, signalExitCode } from "./exit-codes.ts";

export class SignalWatch implements Disposable {
  readonly #listeners: ReadonlyMap<EndingSignal, () => void>;
  #received: EndingSignal | undefined;

  /** @param asked is called at the first signal */
  constructor(asked: () => void) {
    const listener = (signal: EndingSignal) => (): void => {
      if (this.#received !== undefined) process.exit(signalExitCode(signal));
      this.#received = signal;
      asked();
    };
    this.#listeners = new Map(ENDING_SIGNALS.map((signal) => [signal, listener(signal)]));
    for (const [signal, listen] of this.#listeners) process.on(signal, listen);
  }

  /** The signal that has come first; undefined while none has. */
  get received(): EndingSignal | undefined {
    return this.#received;
  }

  [Symbol.dispose](): void {
    for (const [signal, listen] of this.#listeners) process.off(signal, listen);
  }
}
