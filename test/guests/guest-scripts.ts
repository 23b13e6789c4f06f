/** What guests do with their disk, as scripts of busybox's shell. Each ends with lines that begin with "result:". */

/** Partitions, in MiB: ext4, xfs (which wants 300), and one for fio. */
const PARTITIONS = [
  { start: 1, length: 96 },
  { start: 97, length: 320 },
  { start: 417, length: 64 },
] as const;

export const DISK_MIB = 488;

const SECTORS_PER_MIB = 2048;

/** A partition table of the oldest kind, as `printf` writes it. */
function partitionTable(): string {
  const entries = PARTITIONS.map(({ start, length }) => {
    const entry = Buffer.alloc(16);
    entry[4] = 0x83;
    entry.writeUInt32LE(start * SECTORS_PER_MIB, 8);
    entry.writeUInt32LE(length * SECTORS_PER_MIB, 12);
    return entry;
  });
  const table = Buffer.concat([...entries, Buffer.alloc(16), Buffer.from([0x55, 0xaa])]);
  return [...table].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
}

const PRELUDE = `
fail() { echo "result: failed: $1"; echo "guest: the end"; poweroff -f; sleep 10; }
must() { "$@" > /tmp/out 2>&1 || { cat /tmp/out; fail "$*"; }; }
sums() { (cd $1 && find . -type f ! -name sums | sort | xargs md5sum); }
`;

/** Lays the disk out, fills two file systems, gives space back, and checks them. */
export function firstVisit(): string {
  const fill = (part: number, make: string, check: string, name: string): string => `
must tool ${make} /dev/vda${part}
must mount /dev/vda${part} /mnt
for folder in 1 2 3 4; do
  mkdir /mnt/$folder && cp -r /modules /bin/busybox /mnt/$folder
  for file in $(seq 40); do head -c $((file * 997)) /dev/urandom > /mnt/$folder/f$file; done
done
sync
rm -r /mnt/3
must fstrim -v /mnt
sed 's/^/result: ${name} /' /tmp/out
sums /mnt > /tmp/sums && cp /tmp/sums /mnt/sums && sync
must umount /mnt
must tool ${check} /dev/vda${part}
echo "result: ${name} $(md5sum < /tmp/sums)"
`;
  return `${PRELUDE}
echo "result: size $(cat /sys/block/vda/size) serial $(cat /sys/block/vda/serial) cache $(cat /sys/block/vda/queue/write_cache)"
echo "result: queues $(ls /sys/block/vda/mq | wc -l)"
printf '${partitionTable()}' | dd of=/dev/vda bs=1 seek=446 conv=notrunc 2>/dev/null
must blockdev --rereadpt /dev/vda
while [ ! -b /dev/vda3 ]; do sleep 0.1; done
${fill(1, "mkfs.ext4 -q", "e2fsck -fn", "ext4")}
${fill(2, "mkfs.xfs -q -f", "xfs_repair -n", "xfs")}
${fio(1)}
`;
}

/** Finds everything as the first visit has left it, and works on. */
export function laterVisit(visit: number): string {
  const look = (part: number, check: string, name: string): string => `
must mount /dev/vda${part} /mnt
(cd /mnt && md5sum -c sums > /tmp/out 2>&1) || { grep -v ': OK' /tmp/out; fail "${name} has changed"; }
echo "result: ${name} $(md5sum < /mnt/sums)"
rm -rf /mnt/later
mkdir /mnt/later && cp -r /modules /mnt/later && sync
sums /mnt/later > /tmp/later
must umount /mnt
must mount /dev/vda${part} /mnt
sums /mnt/later | cmp - /tmp/later || fail "${name} has lost files"
rm -r /mnt/later
must umount /mnt
must tool ${check} /dev/vda${part}
`;
  return `${PRELUDE}
${look(1, "e2fsck -fn", "ext4")}
${look(2, "xfs_repair -n", "xfs")}
${fio(visit)}
`;
}

/** Writes at random places in random sizes, 32 at once, and verifies every block. */
function fio(seed: number): string {
  return `
must tool fio --name=verify --filename=/dev/vda3 --rw=randwrite --bsrange=512-64k --size=24m --ioengine=libaio \\
  --direct=1 --iodepth=32 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --randseed=${seed} --fsync=64
echo "result: fio"
`;
}

/** Lines that begin with "result:", without that. */
export function results(lines: readonly string[]): string[] {
  return lines.flatMap((line) => /^result: (.*)$/.exec(line)?.[1] ?? []);
}
