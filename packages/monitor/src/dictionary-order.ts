/**
 * The order in which QEMU prints the keys of an object: that of the hash table behind them (qobject/qdict.c), bucket by
 * bucket, and in a bucket what was inserted last first. Scripts compare its text, so the order is part of the interface.
 */
import { encodeUtf8 } from "@spindle/base";

const BUCKETS = 512;

export function dictionaryOrder(keys: readonly string[]): string[] {
  return keys
    .map((key) => ({ key, bucket: bucketOf(key) }))
    .reverse()
    .sort((one, other) => one.bucket - other.bucket)
    .map(({ key }) => key);
}

function bucketOf(key: string): number {
  const bytes = encodeUtf8(key);
  let value = Math.imul(0x238f13af, bytes.length);
  bytes.forEach((byte, index) => {
    value = (value + (byte << ((index * 5) % 24))) | 0;
  });
  return (Math.imul(1103515243, value) + 12345) & (BUCKETS - 1);
}
