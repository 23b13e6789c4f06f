/** A disk served at a socket in a folder of its own, with everything that belongs to it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BlockNode } from "@spindle/block";
import { createImage, openChain, Session } from "spindle";
import { VhostUserServer } from "../src/index.ts";

export interface ServedDiskOptions {
  readonly format?: "raw" | "qcow2";
  /** Bytes. */
  readonly size?: number;
  readonly queues?: number;
  /** Past the page cache. */
  readonly direct?: boolean;
  readonly readOnly?: boolean;
  readonly serial?: string;
  readonly pollUs?: number;
}

export class ServedDisk implements AsyncDisposable {
  readonly folder: string;
  readonly image: string;
  readonly socket: string;
  readonly session: Session;
  readonly node: BlockNode;
  readonly server: VhostUserServer;
  /** What the server has said. */
  readonly lines: string[];

  static async start(options: ServedDiskOptions = {}): Promise<ServedDisk> {
    const { format = "qcow2", size = 64 * 2 ** 20, readOnly = false, direct = false } = options;
    const folder = mkdtempSync(join(tmpdir(), "spindle-vhost-"));
    const image = join(folder, `disk.${format}`);
    await createImage(image, { format, size });
    const session = new Session();
    const node = await session.run(openChain(session.graph, { filename: image, format, direct }, { readOnly }));
    const lines: string[] = [];
    const { threads, thread, runner } = session;
    const server = await VhostUserServer.start({
      ...{ node, threads, thread, runner },
      ...options,
      path: join(folder, "socket"),
      report: (line) => lines.push(line),
    });
    return new ServedDisk({ folder, image, session, node, server, lines });
  }

  private constructor(parts: Pick<ServedDisk, "folder" | "image" | "session" | "node" | "server" | "lines">) {
    this.folder = parts.folder;
    this.image = parts.image;
    this.socket = join(parts.folder, "socket");
    this.session = parts.session;
    this.node = parts.node;
    this.server = parts.server;
    this.lines = parts.lines;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.session.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
