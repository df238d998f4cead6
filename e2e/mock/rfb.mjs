// A still picture as an RFB server (RFC 6143: version 3.8, security None, Raw) with the extended clipboard, for pictures and tests of
// the page without an X server. It keeps what it is sent: keys, clipboard texts, where the pointer was pressed.

import { createServer } from "node:net";
import { deflateSync, inflateSync } from "node:zlib";

const WIDTH = 1280;
const HEIGHT = 800;
const LOGIN = [
  [0xe9eaec, 0, 0, WIDTH, 86], [0xffffff, 46, 6, 222, 36], [0xf9f9fb, 0, 46, WIDTH, 40], [0xf0f0f2, 222, 50, 834, 32],
  [0x0b3d5c, 0, 86, WIDTH, HEIGHT - 86], [0xf4f7fa, 440, 250, 400, 360], [0xffffff, 470, 370, 340, 42], [0xffffff, 470, 450, 340, 42],
  [0x14252a, 470, 290, 110, 26], [0x55676d, 470, 348, 76, 12], [0x55676d, 470, 428, 76, 12], [0x0f6f73, 470, 530, 340, 42],
];
/** Actions and format of the extended clipboard (rfbproto, pseudo-encoding 0xC0A1E5CE). */
const EXTENDED_CLIPBOARD = 0xc0a1e5ce | 0;
const [CAPS, REQUEST, PEEK, NOTIFY, PROVIDE] = [24, 25, 26, 27, 28].map((bit) => 1 << bit);
const TEXT = 1;

/** Starts it on a free loopback port. */
export async function startPicture() {
  const seen = { keys: [], texts: [], clicks: [], viewers: 0 };
  const clients = new Set();
  const server = createServer((socket) => serve(socket, seen, clients));
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    port: server.address().port,
    /** `keys` ([keysym, down]), `texts` (of the clipboard), `clicks` ([x, y]), `viewers` (how many were shown the picture). */
    seen,
    /** Forgets what was seen. */
    forget: () => Object.assign(seen, { keys: [], texts: [], clicks: [] }),
    /** Somebody copied a text in the machine. */
    copy: (text) => clients.forEach((client) => client.copy(text)),
    close: () => new Promise((done) => server.close(done)),
  };
}

function serve(socket, seen, clients) {
  let received = Buffer.alloc(0);
  let copied = "";
  let pressed = false;
  const steps = [
    [12, () => socket.write(Buffer.from([1, 1]))],
    [1, () => socket.write(Buffer.alloc(4))],
    [1, () => socket.write(serverInit())],
  ];
  const client = {
    copy(text) {
      copied = text;
      socket.write(cutText(NOTIFY | TEXT));
    },
  };
  socket.on("error", () => socket.destroy());
  socket.on("close", () => clients.delete(client));
  socket.write("RFB 003.008\n");
  socket.on("data", (chunk) => {
    received = Buffer.concat([received, chunk]);
    for (let size = nextSize(); size > 0 && received.length >= size; size = nextSize()) {
      const message = received.subarray(0, size);
      received = received.subarray(size);
      if (steps.length > 0) steps.shift()[1]();
      else take(message);
    }
  });

  /** Bytes of the next client message; 0 while that is not known. */
  function nextSize() {
    if (steps.length > 0) return steps[0][0];
    if (received.length < 8) return received[0] === 5 && received.length >= 6 ? 6 : 0;
    const sizes = { 0: 20, 2: 4 + 4 * received.readUInt16BE(2), 3: 10, 4: 8, 5: 6, 6: 8 + Math.abs(received.readInt32BE(4)) };
    return sizes[received[0]] ?? received.length;
  }

  function take(message) {
    switch (message[0]) {
      case 2: {
        const encodings = Array.from({ length: message.readUInt16BE(2) }, (_, i) => message.readInt32BE(4 + 4 * i));
        if (encodings.includes(EXTENDED_CLIPBOARD)) {
          clients.add(client);
          socket.write(cutText(CAPS | REQUEST | PEEK | NOTIFY | PROVIDE | TEXT, uint32(0)));
        }
        break;
      }
      case 3:
        if (message[1] !== 0) break;
        seen.viewers += 1;
        socket.write(picture());
        break;
      case 4:
        seen.keys.push([message.readUInt32BE(4), message[1] === 1]);
        break;
      case 5:
        if (message[1] & 1 && !pressed) seen.clicks.push([message.readUInt16BE(2), message.readUInt16BE(4)]);
        pressed = (message[1] & 1) === 1;
        break;
      case 6:
        takeCutText(message);
    }
  }

  function takeCutText(message) {
    if (message.readInt32BE(4) >= 0) return seen.texts.push(message.subarray(8).toString("latin1"));
    const flags = message.readUInt32BE(8);
    // What the viewer can do names every action.
    if (flags & CAPS) return undefined;
    if (flags & NOTIFY) socket.write(cutText(REQUEST | TEXT));
    if (flags & PROVIDE) {
      const text = inflateSync(message.subarray(12), { finishFlush: 2 });
      seen.texts.push(text.subarray(4, 4 + text.readUInt32BE(0)).toString("utf8").replace(/\0$/, ""));
    }
    if (flags & REQUEST && copied) {
      const text = Buffer.from(`${copied}\0`);
      socket.write(cutText(PROVIDE | TEXT, deflateSync(Buffer.concat([uint32(text.length), text]))));
    }
  }
}

function uint32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** ServerCutText with a negative length, which marks the extended form. */
function cutText(flags, data = Buffer.alloc(0)) {
  const header = Buffer.alloc(8);
  header[0] = 3;
  header.writeInt32BE(-(4 + data.length), 4);
  return Buffer.concat([header, uint32(flags), data]);
}

function serverInit() {
  const init = Buffer.alloc(24 + 4);
  init.writeUInt16BE(WIDTH, 0);
  init.writeUInt16BE(HEIGHT, 2);
  // 32 bits per pixel, depth 24, little endian, true colour, 8 bits each: red at 0, as the browser's canvas has it.
  init.set([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16], 4);
  init.writeUInt32BE(4, 20);
  init.write("mock", 24);
  return init;
}

let drawn = null;

function picture() {
  drawn ??= draw();
  return drawn;
}

function draw() {
  const header = Buffer.alloc(16);
  header.writeUInt16BE(1, 2);
  header.writeUInt16BE(WIDTH, 8);
  header.writeUInt16BE(HEIGHT, 10);
  const pixels = Buffer.alloc(WIDTH * HEIGHT * 4);
  for (const [colour, left, top, width, height] of LOGIN) {
    const pixel = Buffer.from([colour >> 16, (colour >> 8) & 255, colour & 255, 255]);
    for (let y = top; y < top + height; y += 1) pixels.fill(pixel, (y * WIDTH + left) * 4, (y * WIDTH + left + width) * 4);
  }
  return Buffer.concat([header, pixels]);
}
