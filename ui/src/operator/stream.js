// Text that arrives in pieces: server-sent events (EventSource cannot send a token) and a machine's console. Pure but for the reader.

/** Parser of server-sent events (WHATWG HTML, section 9.2): `take(text)` returns the events that are complete, `[[name, data]]`. */
export function eventParser() {
  let rest = "";
  let name = "";
  let data = [];
  return {
    take(text) {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      const events = [];
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line === "") {
          if (data.length > 0) events.push([name || "message", data.join("\n")]);
          name = "";
          data = [];
        } else if (line.startsWith("event:")) name = line.slice(6).trimStart();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      return events;
    },
  };
}

/** Reads a stream of events to its end; the data of each is JSON. */
export async function readEvents(reader, onEvent) {
  const parser = eventParser();
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    for (const [name, data] of parser.take(decoder.decode(value, { stream: true }))) onEvent(name, JSON.parse(data));
  }
}

// CSI, OSC and the two-byte escapes of ECMA-48, then what is left of the C0 and C1 controls apart from tab. The text is the guest's:
// it is shown as text, and what would move a terminal's cursor is taken out because it would only stand in the way.
// eslint-disable-next-line no-control-regex
const CONTROLS = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;

/** A line of a console without control sequences; of a line that was overwritten what stood there last. */
export function plainLine(line) {
  const parts = line.replace(/\r+$/, "").split("\r");
  return parts.at(-1).replace(CONTROLS, "");
}

/** Splits a console into lines: `take(text)` returns the complete ones, `rest()` is the one that has no end yet. */
export function lineSplitter() {
  let rest = "";
  return {
    take(text) {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      // A console without line ends must not grow without bound.
      if (rest.length > 8192) lines.push(rest), (rest = "");
      return lines.map(plainLine);
    },
    rest: () => plainLine(rest),
  };
}

/** What a console line is: `stage`, `failed` (a stage), or `text`. */
export function kindOfLine(line) {
  const report = /^@airlock (\{.*\})\s*$/.exec(line);
  if (!report) return "text";
  return /"ok":\s*false/.test(report[1]) ? "failed" : "stage";
}
