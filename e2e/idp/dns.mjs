// A DNS responder (RFC 1035) of a few fixed names: one address for each, "no such name" for all others. Names the questions it saw.

import { createSocket } from "node:dgram";

const TYPE_A = 1;
const NO_SUCH_NAME = 3;

/** Answers on `address`, port 53, until the process ends. */
export async function startDns(address, names, say) {
  const known = new Set(names);
  const asked = new Set();
  const socket = createSocket("udp4");
  socket.on("message", (query, from) => {
    const question = readQuestion(query);
    if (!question) return;
    if (!asked.has(question.name)) say({ seen: "dns", name: question.name, known: known.has(question.name) });
    asked.add(question.name);
    socket.send(answer(query, question, known.has(question.name) ? address : null), from.port, from.address);
  });
  await new Promise((done, failed) => socket.once("error", failed).bind(53, address, done));
}

/** The first question of a query, or null if it is none. */
export function readQuestion(query) {
  if (query.length < 17 || query[2] & 0x80 || query.readUInt16BE(4) < 1) return null;
  const labels = [];
  let at = 12;
  while (at < query.length && query[at] !== 0) {
    labels.push(query.toString("latin1", at + 1, at + 1 + query[at]));
    at += 1 + query[at];
  }
  if (at + 5 > query.length) return null;
  return { name: labels.join(".").toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 };
}

/** The answer: `address` to a question for an A record, nothing of another type, "no such name" without an address. */
export function answer(query, { type, end }, address) {
  const found = address !== null && type === TYPE_A;
  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  // Response, authoritative, recursion desired as asked and available.
  header[2] = 0x84 | (query[2] & 0x01);
  header[3] = 0x80 | (address === null ? NO_SUCH_NAME : 0);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(found ? 1 : 0, 6);
  const record = Buffer.from([0xc0, 12, 0, TYPE_A, 0, 1, 0, 0, 0, 5, 0, 4, ...(address ?? "0.0.0.0").split(".").map(Number)]);
  return Buffer.concat([header, query.subarray(12, end), ...(found ? [record] : [])]);
}
