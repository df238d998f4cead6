// A way between the person's browser and the daemon that can be interrupted for real: while it is cut every connection is gone and
// every new one is refused.

import { once } from "node:events";
import { connect, createServer } from "node:net";

/** Relays a loopback port to `port`; returns its own `port`, `cut()`, `mend()` and `close()`. */
export async function startRelay(port) {
  const pairs = new Set();
  const server = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    const pair = [near, far];
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      pair.forEach((socket) => socket.destroy());
    };
    pair.forEach((socket) => socket.setNoDelay(true).on("error", end).on("close", end));
    near.pipe(far).pipe(near);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const own = server.address().port;

  async function cut() {
    const closed = once(server, "close");
    server.close();
    [...pairs].flat().forEach((socket) => socket.resetAndDestroy());
    await closed;
  }

  return {
    port: own,
    cut,
    mend: () => once(server.listen(own, "127.0.0.1"), "listening"),
    close: () => (server.listening ? cut() : undefined),
  };
}
