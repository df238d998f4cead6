// The stages of a boot in their order (DESIGN section 6), with words a person understands, and what is known of them so far.
// Pure: reports in, list out. A report of a stage this version does not know is ignored, so an older page survives a newer daemon.

/** Phases as the page groups them; every stage stands in exactly one. */
export const PHASES = [
  {
    name: "machine",
    label: "Preparing a private machine",
    stages: [
      ["planned", "Request accepted"],
      ["leased", "Network address reserved"],
      ["tap_up", "Network cable plugged in"],
      ["disk_ready", "Disk opened"],
      ["vmm_started", "Machine switched on"],
    ],
  },
  {
    name: "system",
    label: "Starting the system",
    stages: [
      ["kernel_started", "Kernel running"],
      ["init_started", "First program running"],
      ["config_read", "Settings read"],
      ["modules_loaded", "Drivers loaded"],
    ],
  },
  {
    name: "network",
    label: "Connecting the network",
    stages: [
      ["link_found", "Network card found"],
      ["link_up", "Network link up"],
      ["address_set", "Address assigned"],
      ["route_set", "Route set"],
      ["gateway_reachable", "Gateway answers"],
    ],
  },
  {
    name: "services",
    label: "Starting the services",
    stages: [
      ["root_mounted", "Files mounted"],
      ["handed_over", "Services starting"],
      ["agent_up", "Agent running"],
    ],
  },
  {
    name: "browser",
    label: "Opening the browser",
    stages: [
      ["display_up", "Screen ready"],
      ["browser_up", "Browser window open"],
      ["page_painted", "First page drawn"],
    ],
  },
  {
    name: "checks",
    label: "Final checks",
    stages: [
      ["reachable", "Reachable over the network"],
      ["ready", "Ready for you"],
    ],
  },
];

/** Every stage name, in order. */
export const STAGE_NAMES = PHASES.flatMap((phase) => phase.stages.map(([name]) => name));

const LABELS = new Map(PHASES.flatMap((phase) => phase.stages));

/** Words for a stage; its own name if this version has none. */
export function labelOf(name) {
  return LABELS.get(name) ?? name;
}

/** Reports by stage name: `{ok, atMs, errno, detail}`. */
export function noReports() {
  return new Map();
}

/**
 * The reports with one more. Replays are harmless: the same report again changes nothing, and a failure is never
 * overwritten by a success, because the first failure is what explains the rest.
 */
export function addReport(reports, { stage, ok, atMs, errno, detail }) {
  if (!LABELS.has(stage) || reports.get(stage)?.ok === false) return reports;
  const known = reports.get(stage);
  if (known && known.ok === ok) return reports;
  return new Map(reports).set(stage, { ok, atMs, errno, detail });
}

/**
 * The list to show: each phase and stage with `status` `done`, `failed`, `active` or `waiting`. Only one stage is active: the
 * first that is missing, and none once something failed or the boot is over.
 */
export function listOf(reports, { over = false } = {}) {
  const failed = STAGE_NAMES.find((name) => reports.get(name)?.ok === false);
  const active = over || failed ? undefined : STAGE_NAMES.find((name) => !reports.has(name));
  const phases = PHASES.map((phase) => {
    const stages = phase.stages.map(([name, label]) => ({ name, label, ...reports.get(name), status: statusOf(name) }));
    return { name: phase.name, label: phase.label, stages, status: phaseStatus(stages) };
  });
  const done = STAGE_NAMES.filter((name) => reports.get(name)?.ok).length;
  return { phases, done, total: STAGE_NAMES.length, active, failed };

  function statusOf(name) {
    if (reports.has(name)) return reports.get(name).ok ? "done" : "failed";
    return name === active ? "active" : "waiting";
  }
}

function phaseStatus(stages) {
  for (const status of ["failed", "active"]) if (stages.some((stage) => stage.status === status)) return status;
  if (stages.every((stage) => stage.status === "done")) return "done";
  return stages.some((stage) => stage.status === "done") ? "active" : "waiting";
}

/** A moment of a boot in words: `0.12 s`, `8.4 s`, `1 min 03 s`. */
export function formatMoment(ms) {
  if (!Number.isFinite(ms) || ms < 0) return "";
  if (ms < 995) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}
