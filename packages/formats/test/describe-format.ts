/** The contract of drivers, for a format whose empty image stands in memory and is made anew for each case. */
import type { BlockDriver } from "@spindle/block";
import { MemoryDriver, SimulatedRunner } from "@spindle/testkit";
import { describeDriver } from "@spindle/testkit/driver-conformance";

/** @param empty an image of a disk of no bytes */
export function describeFormat(name: string, empty: MemoryDriver, open: (file: MemoryDriver) => BlockDriver): void {
  describeDriver(name, () => {
    const runner = new SimulatedRunner(1);
    const files = new WeakMap<object, MemoryDriver>();
    const track = (file: MemoryDriver) => {
      const driver = open(file);
      files.set(driver, file);
      return driver;
    };
    return {
      *open(length) {
        const driver = track(new MemoryDriver(empty.content.clone()));
        yield* driver.truncate(length);
        return driver;
      },
      *reopen(closed) {
        return track(new MemoryDriver(files.get(closed)!.content));
      },
      run: (co) => runner.run(co),
    };
  });
}
