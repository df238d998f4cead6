// The stages of a boot in their order (DESIGN section 6), with words a person understands, and what is known of them so far.
// Pure: reports in, list out. A report of a stage this version does not know is ignored, so an older page survives a newer daemon.

/** Phases as the page groups them; every stage stands in exactly one, with its words once reached and on the way there. */
export const PHASES = [
  {
    name: "machine",
    label: "Preparing the machine",
    stages: [
      ["planned", "Request accepted", "Accepting the request"],
      ["leased", "Network address reserved", "Reserving a network address"],
      ["tap_up", "Network cable plugged in", "Plugging in the network cable"],
      ["disk_ready", "Disk opened", "Opening the disk"],
      ["vmm_started", "Machine switched on", "Switching the machine on"],
    ],
  },
  {
    name: "system",
    label: "Starting the system",
    stages: [
      ["kernel_started", "Kernel running", "Starting the kernel"],
      ["init_started", "First program running", "Starting the first program"],
      ["config_read", "Settings read", "Reading the settings"],
      ["modules_loaded", "Drivers loaded", "Loading the drivers"],
    ],
  },
  {
    name: "network",
    label: "Connecting the network",
    stages: [
      ["link_found", "Network card found", "Finding the network card"],
      ["link_up", "Network link up", "Bringing the network link up"],
      ["address_set", "Address assigned", "Assigning the address"],
      ["route_set", "Route set", "Setting the route"],
      ["gateway_reachable", "Gateway answers", "Asking for the gateway"],
    ],
  },
  {
    name: "services",
    label: "Starting the services",
    stages: [
      ["root_mounted", "Files mounted", "Mounting the files"],
      ["handed_over", "Services starting", "Handing over to the services"],
      ["agent_up", "Agent running", "Starting the agent"],
    ],
  },
  {
    name: "browser",
    label: "Opening the browser",
    stages: [
      ["display_up", "Screen ready", "Opening the screen"],
      ["browser_up", "Browser window open", "Opening the browser window"],
      ["page_painted", "First page drawn", "Drawing the first page"],
    ],
  },
  {
    name: "checks",
    label: "Final checks",
    stages: [
      ["reachable", "Reachable over the network", "Reaching it over the network"],
      ["ready", "Ready for you", "Checking that everything is there"],
    ],
  },
];

/** Every stage name, in order. */
export const STAGE_NAMES = PHASES.flatMap((phase) => phase.stages.map(([name]) => name));

const WORDS = new Map(PHASES.flatMap((phase) => phase.stages.map(([name, reached, doing]) => [name, { reached, doing }])));

/** What is being done on the way to a stage, for the one that is active or failed; its own name if this version has no words. */
export function doingOf(name) {
  return WORDS.get(name)?.doing ?? name;
}

/** What a stage is once it is reached; empty if this version has no words for it. */
export function labelOf(name) {
  return WORDS.get(name)?.reached ?? "";
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
  if (!WORDS.has(stage) || reports.get(stage)?.ok === false) return reports;
  const known = reports.get(stage);
  if (known && known.ok === ok) return reports;
  return new Map(reports).set(stage, { ok, atMs, errno, detail });
}

/**
 * The list to show: each phase and stage with `status` `done`, `failed`, `active` or `waiting`. Only one stage is active: the
 * first that is missing, and none once something failed or the boot is over. A phase has the moment of its last stage. Of a machine
 * that is ready only what it reached is shown: one without a browser never opens one.
 */
export function listOf(reports, { over = false } = {}) {
  const failed = STAGE_NAMES.find((name) => reports.get(name)?.ok === false);
  const ready = reports.get("ready")?.ok ?? false;
  const names = ready ? STAGE_NAMES.filter((name) => reports.has(name)) : STAGE_NAMES;
  const active = over || failed ? undefined : names.find((name) => !reports.has(name));
  const phases = PHASES.map((phase) => {
    const stages = phase.stages.map(([name]) => name).filter((name) => names.includes(name)).map(stageOf);
    const reached = stages.filter((stage) => stage.ok).map((stage) => stage.atMs);
    return { name: phase.name, label: phase.label, stages, status: phaseStatus(stages), atMs: Math.max(...reached) };
  });
  const done = names.filter((name) => reports.get(name)?.ok).length;
  return { phases: phases.filter((phase) => phase.stages.length > 0), done, total: names.length, active, failed };

  function stageOf(name) {
    const status = statusOf(name);
    const { reached, doing } = WORDS.get(name);
    return { name, label: status === "active" || status === "failed" ? doing : reached, ...reports.get(name), status };
  }

  function statusOf(name) {
    if (reports.has(name)) return reports.get(name).ok ? "done" : "failed";
    return name === active ? "active" : "waiting";
  }
}

function phaseStatus(stages) {
  for (const status of ["failed", "active"]) if (stages.some((stage) => stage.status === status)) return status;
  return stages.every((stage) => stage.status === "done") ? "done" : "waiting";
}

/** A moment of a boot in words: `0.12 s`, `8.4 s`, `1 min 03 s`. */
export function formatMoment(ms) {
  if (!Number.isFinite(ms) || ms < 0) return "";
  if (ms < 995) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}
