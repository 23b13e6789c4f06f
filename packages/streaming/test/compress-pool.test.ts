/** Compressing workers on real threads: they give what this thread would give, and their death costs nothing but time. */
import { AsyncRunner, join, KiB, SeededRandom } from "@spindle/base";
import { nodeEnvironment, nodeEventLoop } from "@spindle/host-node";
import { packCluster } from "@spindle/jobs";
import { ThreadTable } from "@spindle/shared-memory";
import { randomBytes } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { CompressBoard } from "../src/compress-board.ts";
import { compressPool } from "../src/index.ts";

const CLUSTER = 64 * KiB;
const PIECE = 8 * CLUSTER;

/** One cluster in three does not get smaller. */
function content(random: SeededRandom): Uint8Array {
  const bytes = new Uint8Array(PIECE);
  for (let index = 0; index < 8; index++)
    if (index % 3 === 0) bytes.set(randomBytes(random, CLUSTER), index * CLUSTER);
    else bytes.fill(index, index * CLUSTER + random.below(1000), (index + 1) * CLUSTER);
  return bytes;
}

async function compressAll(workers: number): Promise<number> {
  const threads = ThreadTable.create();
  const owner = new ThreadTable(threads).attach();
  const { codecs } = nodeEnvironment();
  const runner = new AsyncRunner(nodeEventLoop(), owner);
  const compressor = await runner.run(
    compressPool({ threads, owner, codecs, workers })({ kind: "zlib", clusterSize: CLUSTER, pieceBytes: PIECE }),
  );
  const random = new SeededRandom(3);
  let count = 0;
  const lane = function* (piece: ReturnType<typeof compressor.pieces>[number]) {
    for (let round = 0; round < 20; round++) {
      const bytes = content(random);
      piece.bytes.set(bytes);
      const results = yield* piece.compress([0, 2, 3, 7]);
      const expected = [0, 2, 3, 7].map((index) =>
        packCluster(codecs, "zlib", bytes.subarray(index * CLUSTER, (index + 1) * CLUSTER)),
      );
      expect(results.map((one) => one && Buffer.from(one).toString("base64"))).toEqual(
        expected.map((one) => one && Buffer.from(one).toString("base64")),
      );
      count += 1;
    }
  };
  await runner.run(join(compressor.pieces(4).map(lane)));
  await runner.run(compressor.close());
  owner.detach();
  return count;
}

describe("compressing workers", () => {
  it.each([1, 3])("give what one thread gives (%i workers)", async (workers) => {
    expect(await compressAll(workers)).toBe(80);
  });

  it("leave what they had to others when they die", () => {
    const handle = CompressBoard.create({ kind: "zlib", clusterSize: CLUSTER, pieceBytes: PIECE }, 2, 2);
    const [owner, dying, heir] = [new CompressBoard(handle), new CompressBoard(handle), new CompressBoard(handle)];
    owner.want(0, [1, 4]);
    owner.want(1, [0]);
    expect([dying.take(0), heir.take(1), dying.take(0)]).toEqual([0, 1, undefined]);
    expect(owner.takeBack(0)).toBe(false);
    owner.abandon(0);
    expect(heir.take(1)).toBe(0);
    heir.finish(0, (cluster) => (cluster[0] === 0 ? Uint8Array.of(1, 2, 3) : undefined));
    expect([owner.isDone(0), owner.isDone(1)]).toEqual([true, false]);
    expect(owner.results(0, [1, 4])).toEqual([Uint8Array.of(1, 2, 3), Uint8Array.of(1, 2, 3)]);
    // What nobody has is taken back, and done by the owner itself.
    owner.abandon(1);
    expect([owner.takeBack(1), owner.takeBack(1)]).toEqual([true, false]);
  });
});
