// The daemon's routes that the operator page uses: the public API, with a bearer token, which is never part of an address.
// Failures become `ApiError`, or a TypeError from fetch when nobody answered.

import { ApiError } from "../api.js";
import { readEvents } from "./stream.js";

/** Client with this token. */
export function operatorApi(token) {
  async function ask(path, options = {}) {
    const headers = { authorization: `Bearer ${token}`, accept: "application/json" };
    const response = await fetch(path, { cache: "no-store", credentials: "omit", ...options, headers });
    if (response.ok) return response;
    throw new ApiError(response.status, await response.json().catch(() => null));
  }
  const json = async (path) => (await ask(path)).json();
  const id = encodeURIComponent;

  return {
    sessions: async () => (await json("/api/auth/sessions")).sessions,
    vms: async () => (await json("/api/vms")).vms,
    vm: (vm) => json(`/api/vms/${id(vm)}`),
    timeline: async (vm) => (await json(`/api/vms/${id(vm)}/timeline`)).stages,
    diagnosis: (vm) => json(`/api/vms/${id(vm)}/diagnosis`),
    images: async () => (await json("/api/images")).images,
    builds: async () => (await json("/api/images/builds")).builds,

    /** Whether a sign-in could start; also a degraded daemon (503) says so. With the answer's `Date` header. */
    async health() {
      const response = await fetch("/api/auth/health", { cache: "no-store", credentials: "omit" });
      return { ...(await response.json()), date: response.headers.get("date") };
    },

    cancelSession: (session) => ask(`/api/auth/session/${id(session)}/cancel`, { method: "POST" }),
    destroyVm: (vm) => ask(`/api/vms/${id(vm)}`, { method: "DELETE" }),
    cancelBuild: (build) => ask(`/api/images/builds/${id(build)}`, { method: "DELETE" }),

    /** The end of a machine's console and what comes after it, as a reader of bytes. */
    async console(vm, signal) {
      return (await ask(`/api/vms/${id(vm)}/console?follow=true`, { signal })).body.getReader();
    },

    /** Calls `onEvent(name, data)` for each event of a build until it is over. */
    async followBuild(build, signal, onEvent) {
      const response = await ask(`/api/images/builds/${id(build)}/events`, { signal });
      await readEvents(response.body.getReader(), onEvent);
    },
  };
}
