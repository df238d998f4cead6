//! The supervisor as a unit of systemd, in /run/systemd/system: nothing has to be enabled in the image.

use airlock_protocol::paths::GUEST_INIT;

use super::Placed;

const DIR: &str = "/run/systemd/system";
/// Name of the unit.
pub const UNIT: &str = "airlock.service";

/// Whatever the image's default target is, one of these is reached: sysinit by every ordinary boot before anything that can
/// block it, emergency and rescue by one that failed.
const TARGETS: [&str; 5] =
    ["sysinit.target", "default.target", "multi-user.target", "rescue.target", "emergency.target"];

/// The unit and the links that want it.
pub fn files() -> Vec<Placed> {
    let links = TARGETS.iter().map(|target| Placed::link(format!("{DIR}/{target}.wants/{UNIT}"), format!("../{UNIT}")));
    std::iter::once(Placed::text(format!("{DIR}/{UNIT}"), text())).chain(links).collect()
}

/// Without default dependencies it starts at once and survives a boot that ends in emergency mode. It waits for the lock of
/// the supervisor that PID 1 started before it was systemd.
fn text() -> String {
    format!(
        "[Unit]\n\
         Description=Airlock supervisor of the in-guest service\n\
         DefaultDependencies=no\n\
         IgnoreOnIsolate=yes\n\
         StartLimitIntervalSec=0\n\
         Conflicts=shutdown.target\n\
         Before=shutdown.target\n\
         \n\
         [Service]\n\
         ExecStart={GUEST_INIT} supervise\n\
         Restart=always\n\
         RestartSec=100ms\n\
         KillMode=mixed\n\
         OOMScoreAdjust=-900\n"
    )
}
