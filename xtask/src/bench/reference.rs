//! Boots the reference and measures: from just before QEMU is started to the first HTTP 200 over the TAP.
//!
//! A boot that does not answer in [`DEADLINE`] fails the bench with the end of its console. QEMU is killed and waited for
//! on every way out.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::netns::Namespace;
use super::qemu::{REFERENCE_SIZE, SharedFlags};
use super::reference_image::ReferenceImage;
use super::{http, millis_since};
use crate::run;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 8);
const MAC: &str = "06:00:c0:a8:64:08";
const DEADLINE: Duration = Duration::from_secs(180);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What the console shows at the landmarks of the reference's boot.
const LANDMARKS: &[(&str, &str)] = &[
    ("kernel", "Linux version"),
    ("initramfs", "Run /init as init process"),
    ("systemd", "Welcome to"),
    ("script", "=== Network Setup Script Started"),
    ("network", "=== Network setup complete"),
];

/// One measured boot.
#[derive(Debug)]
pub struct Boot {
    /// Request to HTTP 200.
    pub reachable_ms: u64,
    /// Landmark of the console and when it was seen.
    pub landmarks: Vec<(&'static str, u64)>,
}

/// Boots once on a fresh copy of the root (made before the clock starts).
pub fn boot(image: &ReferenceImage, flags: &SharedFlags) -> Result<Boot> {
    let dir = image.root.parent().context("an image without a directory")?;
    let work = tempfile::Builder::new().prefix("boot-").tempdir_in(dir).context("make a directory for the VM")?;
    let root = work.path().join("rootfs.ext4");
    run::run(std::process::Command::new("cp").args(["--sparse=always"]).arg(&image.root).arg(&root))?;
    let namespace = Namespace::create()?;
    namespace.add_tap("fc-bench", HOST, GUEST, MAC)?;

    let console = work.path().join("console.log");
    File::create(&console).context("create the console file")?;
    let start = Instant::now();
    let mut vmm = Vmm(spawn(&namespace, image, flags, &root, &console, &work.path().join("qemu.log"))?);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let landmarks = scope.spawn(|| watch_console(&console, start, &stop));
        let answered = scope.spawn(|| await_health(&namespace, start, &stop));
        let exit = loop {
            if answered.is_finished() {
                break None;
            }
            if let Some(status) = vmm.0.try_wait().context("look at QEMU")? {
                break Some(status);
            }
            std::thread::sleep(ASK_EVERY);
        };
        stop.store(true, Ordering::Relaxed);
        let answered = answered.join().unwrap_or_else(|_| bail!("the prober panicked"));
        let landmarks = landmarks.join().unwrap_or_default();
        let console = || run::tail(&std::fs::read_to_string(&console).unwrap_or_default(), 30);
        if let Some(status) = exit {
            let log = std::fs::read_to_string(work.path().join("qemu.log")).unwrap_or_default();
            bail!("QEMU ended with {status} before the guest answered\n{log}\n{}", console());
        }
        Ok(Boot { reachable_ms: answered.with_context(console)?, landmarks })
    })
}

fn spawn(
    namespace: &Namespace,
    image: &ReferenceImage,
    flags: &SharedFlags,
    root: &Path,
    console: &Path,
    log: &Path,
) -> Result<Child> {
    let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut command = namespace.command("qemu-system-x86_64");
    for (flag, value) in &flags.0 {
        command.args([flag, value]);
    }
    command
        .args(REFERENCE_SIZE)
        .args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-monitor", "none"])
        .args(["-chardev", &format!("file,id=con,path={}", console.display()), "-serial", "chardev:con"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args(["-append", &cmdline()])
        .args(["-drive", &format!("id=root,file={},format=raw,if=none", root.display())])
        .args(["-device", "virtio-blk-pci,drive=root"])
        .args(["-netdev", "tap,id=n0,ifname=fc-bench,script=no,downscript=no"])
        .args(["-device", &format!("virtio-net-pci,netdev=n0,mac={MAC}")])
        .args(["-device", "virtio-rng-pci"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().context("start qemu-system-x86_64 (apt-get install qemu-system-x86)")
}

fn cmdline() -> String {
    format!(
        "root=/dev/vda ro console=ttyS0 reboot=k panic=1 net.ifnames=0 ip={GUEST}::{HOST}:255.255.255.0:reference:eth0:off"
    )
}

/// Asks for `/health` from inside the namespace until it is answered with 200.
fn await_health(namespace: &Namespace, start: Instant, stop: &AtomicBool) -> Result<u64> {
    namespace.enter()?;
    let addr = SocketAddr::from((GUEST, 8080));
    loop {
        let last = match http::request(addr, "GET", "/health", None, None, Duration::from_millis(250)) {
            Ok(answer) if answer.status == 200 => return Ok(millis_since(start)),
            Ok(answer) => format!("status {}", answer.status),
            Err(error) => format!("{error:#}"),
        };
        if stop.load(Ordering::Relaxed) || start.elapsed() > DEADLINE {
            bail!("no HTTP 200 from {addr} after {} s: {last}", start.elapsed().as_secs());
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Reads the console as it grows and notes when each landmark appears.
fn watch_console(console: &Path, start: Instant, stop: &AtomicBool) -> Vec<(&'static str, u64)> {
    let mut seen: Vec<(&'static str, u64)> = Vec::new();
    let mut text = Vec::new();
    let Ok(mut file) = File::open(console) else { return seen };
    while !stop.load(Ordering::Relaxed) {
        if file.read_to_end(&mut text).is_ok_and(|grown| grown > 0) {
            let shown = String::from_utf8_lossy(&text);
            for (name, mark) in LANDMARKS {
                if shown.contains(mark) && !seen.iter().any(|(known, _)| known == name) {
                    seen.push((name, millis_since(start)));
                }
            }
        }
        std::thread::sleep(ASK_EVERY);
    }
    seen
}

/// A QEMU that is killed and waited for when this goes.
struct Vmm(Child);

impl Drop for Vmm {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("left behind: QEMU process {}: {error}", self.0.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cmdline;

    #[test]
    fn command_line_names_the_address_and_the_console() {
        assert_eq!(
            cmdline(),
            "root=/dev/vda ro console=ttyS0 reboot=k panic=1 net.ifnames=0 ip=192.168.100.8::192.168.100.1:255.255.255.0:reference:eth0:off"
        );
    }
}
