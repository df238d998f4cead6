// A still picture as an RFB server (RFC 6143: version 3.8, security None, Raw), for pictures of the page without an X server.

import { createServer } from "node:net";

const WIDTH = 1280;
const HEIGHT = 800;
const LOGIN = [
  [0xe9eaec, 0, 0, WIDTH, 86], [0xffffff, 46, 6, 222, 36], [0xf9f9fb, 0, 46, WIDTH, 40], [0xf0f0f2, 222, 50, 834, 32],
  [0x0b3d5c, 0, 86, WIDTH, HEIGHT - 86], [0xf4f7fa, 440, 250, 400, 360], [0xffffff, 470, 370, 340, 42], [0xffffff, 470, 450, 340, 42],
  [0x14252a, 470, 290, 110, 26], [0x55676d, 470, 348, 76, 12], [0x55676d, 470, 428, 76, 12], [0x0f6f73, 470, 530, 340, 42],
];

/** Starts it on a free loopback port. */
export async function startPicture() {
  const server = createServer(serve);
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { port: server.address().port, close: () => new Promise((done) => server.close(done)) };
}

function serve(socket) {
  let received = Buffer.alloc(0);
  const steps = [
    [12, () => socket.write(Buffer.from([1, 1]))],
    [1, () => socket.write(Buffer.alloc(4))],
    [1, () => socket.write(serverInit())],
  ];
  socket.on("error", () => socket.destroy());
  socket.write("RFB 003.008\n");
  socket.on("data", (chunk) => {
    received = Buffer.concat([received, chunk]);
    for (let size = nextSize(); size > 0 && received.length >= size; size = nextSize()) {
      const message = received.subarray(0, size);
      received = received.subarray(size);
      if (steps.length > 0) steps.shift()[1]();
      else if (message[0] === 3 && message[1] === 0) socket.write(picture());
    }
  });

  /** Bytes of the next client message; 0 while that is not known. */
  function nextSize() {
    if (steps.length > 0) return steps[0][0];
    if (received.length < 8) return received[0] === 5 && received.length >= 6 ? 6 : 0;
    const sizes = { 0: 20, 2: 4 + 4 * received.readUInt16BE(2), 3: 10, 4: 8, 5: 6 };
    return sizes[received[0]] ?? received.length;
  }
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

function picture() {
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
