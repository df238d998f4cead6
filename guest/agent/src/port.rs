//! The virtio-serial port of the control channel as a device node.
//!
//! Without udev nothing names the port: it is found through `/sys/class/virtio-ports/*/name`.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// [`find`], again until the port is there or the time is over. Nothing announces a port here: there is no udev.
pub fn await_port(sys: &Path, dev: &Path, name: &str, within: Duration) -> io::Result<Option<PathBuf>> {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    let start = Instant::now();
    loop {
        match find(sys, dev, name)? {
            None if start.elapsed() < within => std::thread::sleep(LOOK_EVERY),
            found => return Ok(found),
        }
    }
}

/// The device node of the port called `name`; made if the kernel's devtmpfs lacks it. `None` when there is no such port.
pub fn find(sys: &Path, dev: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(sys) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        let named = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if named.trim() != name {
            continue;
        }
        let node = dev.join(entry.file_name());
        if !node.exists() {
            make_node(&node, &fs::read_to_string(entry.path().join("dev"))?)?;
        }
        return Ok(Some(node));
    }
    Ok(None)
}

/// `numbers` is `major:minor`, as sysfs prints it.
fn make_node(node: &Path, numbers: &str) -> io::Result<()> {
    let parsed =
        numbers.trim().split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor) =
        parsed.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("device number {numbers:?}")))?;
    mknod(node, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, minor))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_port_by_its_name() {
        let dir = std::env::temp_dir().join(format!("airlock-port-{}", std::process::id()));
        for (port, name) in [("vport1p1", "org.qemu.guest_agent.0\n"), ("vport2p1", "airlock.agent.0\n")] {
            fs::create_dir_all(dir.join("sys").join(port)).unwrap();
            fs::write(dir.join("sys").join(port).join("name"), name).unwrap();
        }
        fs::create_dir_all(dir.join("dev")).unwrap();
        fs::write(dir.join("dev/vport2p1"), "").unwrap();
        let find = |name| find(&dir.join("sys"), &dir.join("dev"), name).unwrap();
        let (ours, other) = (find("airlock.agent.0"), find("nobody"));
        let later = std::thread::spawn({
            let (sys, dev) = (dir.join("later"), dir.join("dev"));
            move || super::await_port(&sys, &dev, "airlock.agent.0", Duration::from_secs(10)).unwrap()
        });
        fs::rename(dir.join("sys"), dir.join("later")).unwrap();
        let later = later.join().unwrap();
        let no_sys = super::find(&dir.join("nothing"), &dir, "x").unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(ours, Some(dir.join("dev/vport2p1")));
        assert_eq!(later, ours);
        assert_eq!((other, no_sys), (None, None));
    }
}
