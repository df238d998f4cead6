// The daemon's routes that this page uses, all same-origin with the viewer's cookie. Failures become `ApiError` with the
// daemon's own words and the HTTP status, or a TypeError from fetch when nobody answered.

/** An answer that is not 2xx. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `the daemon answered ${status}`);
    this.status = status;
    this.remedy = body?.error?.remedy;
  }

  /** The cookie or session is not accepted (any more); asking again will not help. */
  get refused() {
    return [401, 403, 404, 410].includes(this.status);
  }
}

/** Client of one session; `page` is the location of the viewer page, `/api/auth/session/{id}/novnc`. */
export function sessionApi(page) {
  const base = page.pathname.replace(/\/novnc\/?$/, "");
  const sockets = page.protocol === "https:" ? "wss:" : "ws:";

  return {
    /** The session's state, and the value of the answer's `Date` header. */
    async session() {
      const response = await answered(fetch(base, { headers: { accept: "application/json" }, cache: "no-store" }));
      return { session: await response.json(), date: response.headers.get("date") };
    },

    /** Ends the session. */
    async cancel() {
      await answered(fetch(`${base}/cancel`, { method: "POST" }));
    },

    /** Asks for more time; the session with its new deadline. */
    async moreTime() {
      return (await answered(fetch(`${base}/heartbeat`, { method: "POST" }))).json();
    },

    /** What is wrong with the session's machine, in plain words. */
    async verdict() {
      return (await answered(fetch(`${base}/diagnosis`, { cache: "no-store" }))).json();
    },

    /** Hands the tool the code that its page showed. */
    async sendCode(code) {
      const headers = { "content-type": "application/json" };
      await answered(fetch(`${base}/code`, { method: "POST", headers, body: JSON.stringify({ code }) }));
    },

    /** Lets the tool begin its login again, in the same machine. */
    async retry() {
      await answered(fetch(`${base}/retry`, { method: "POST" }));
    },

    /** The live events (SSE): `state` and `stage`. */
    events() {
      return new EventSource(`${base}/events`);
    },

    /** A WebSocket to the machine's screen. */
    screen() {
      return new WebSocket(`${sockets}//${page.host}${base}/vnc`, ["binary"]);
    },
  };
}

async function answered(request) {
  const response = await request;
  if (response.ok) return response;
  throw new ApiError(response.status, await response.json().catch(() => null));
}
