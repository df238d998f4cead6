// Sessions that stand still in one state, for pictures of the page, and the boot that the stand-in plays.

/** Stages with the moment they are reached, ms since `planned`, as measured under emulation. */
export const BOOT = [
  ["planned", 0], ["leased", 6], ["tap_up", 14], ["disk_ready", 15], ["vmm_started", 160], ["kernel_started", 840],
  ["init_started", 1910], ["config_read", 1912], ["modules_loaded", 2140], ["link_found", 2150], ["link_up", 2180],
  ["address_set", 2183], ["route_set", 2185], ["gateway_reachable", 2196], ["root_mounted", 2460], ["handed_over", 2600],
  ["agent_up", 3010], ["reachable", 3180], ["display_up", 5900], ["browser_up", 21400], ["page_painted", 27800], ["ready", 27830],
];

const stages = (count) => BOOT.slice(0, count).map(([stage, atMs]) => ({ stage, ok: true, atMs }));

/**
 * What the mock answers for a session id of the same name: a patch of the session, its stage reports, whether it has a screen, and the
 * diagnosis of its machine.
 */
export const SCENARIOS = {
  queued: { session: { state: "queued", queuePosition: 3, browserIP: null, moreTime: false }, stages: [], ageMs: 9000 },
  booting: { session: { state: "booting" }, stages: stages(18), ageMs: 4200 },
  starting: { session: { state: "starting" }, stages: stages(1), ageMs: 120 },
  awaiting: { session: { state: "awaiting_user" }, stages: stages(22), screen: true },
  ending: { session: { state: "awaiting_user" }, stages: stages(22), screen: true, ageMs: 510_000 },
  "device-code": {
    session: {
      state: "awaiting_user",
      provider: "gh",
      providerName: "GitHub CLI",
      login: { flow: "device_code", userCode: "WDJB-MJHT", verificationUrl: "https://github.com/login/device" },
    },
    stages: stages(22),
    screen: true,
  },
  "paste-code": {
    session: { state: "awaiting_user", provider: "claude_code", providerName: "Claude Code", login: { flow: "paste_code", codeWanted: true } },
    stages: stages(22),
    screen: true,
  },
  "login-denied": {
    session: { state: "awaiting_user", provider: "codex", providerName: "Codex", login: { flow: "loopback", codeWanted: false, attempt: 1, outcome: "denied" } },
    stages: stages(22),
    screen: true,
  },
  bare: { session: { state: "awaiting_user", provider: "shell", providerName: "Bare machine" }, stages: BOOT.filter(([stage]) => !/display|browser|page/.test(stage)).map(([stage, atMs]) => ({ stage, ok: true, atMs })) },
  capturing: { session: { state: "capturing" }, stages: stages(22), screen: true },
  completed: { session: { state: "completed" }, stages: stages(22) },
  cancelled: { session: { state: "cancelled" }, stages: stages(15) },
  expired: { session: { state: "expired" }, stages: stages(22) },
  "failed-network": {
    session: {
      state: "failed",
      stage: "link_found",
      cause: "link_missing",
      evidenceId: "ev-20261123-3f9c1d7a",
      error: {
        code: "boot_failed",
        cause: "link_missing",
        stage: "link_found",
        message: "The machine started, but its network card never appeared.",
        remedy: "Rebuild the golden image with the virtio_net module: airlock image build browser",
      },
    },
    diagnosis: {
      verdict: "link_missing",
      stage: "link_found",
      evidenceId: "ev-20261123-3f9c1d7a",
      summary: "The machine started, but it found no network card: its kernel has no driver for it.",
      remedy: "Nothing you did caused this. Whoever runs Airlock rebuilds the image with the virtio_net driver: airlock image build browser",
    },
    stages: [
      ...stages(9),
      { stage: "link_found", ok: false, atMs: 4160, errno: "ENODEV", detail: "no interface with MAC 06:00:c0:a8:64:08; found: lo" },
    ],
  },
  "failed-vmm": {
    session: {
      state: "failed",
      cause: "vmm_exited",
      evidenceId: "ev-20261123-77aa01b2",
      error: {
        code: "vm_failed",
        cause: "vmm_exited",
        message: "The machine stopped while you were signing in: its process was killed by signal 9.",
        remedy: "Start a new sign-in. If it happens again, look for the host running out of memory.",
      },
    },
    stages: stages(22),
  },
};
