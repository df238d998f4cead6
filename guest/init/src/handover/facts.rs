//! What the image's root holds that decides how PID 1 is handed over. Reads only; links are followed inside the root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// Where the kernel itself looks for an init (init/main.c: kernel_init), without the shell, which is none; then systemd,
/// which some images have without the link that makes it the init.
const INITS: [&str; 6] =
    ["/sbin/init", "/etc/init", "/bin/init", "/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
/// More links than the kernel follows (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// A text that is longer is none that we would change.
const MAX_TEXT: u64 = 256 << 10;

/// Facts of a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootFacts {
    /// Executable inits, the preferred one first.
    pub inits: Vec<FoundInit>,
    /// Which of [`PROBES`] exist, as a link or as anything else.
    pub present: BTreeSet<String>,
    /// Content of those of [`TEXTS`] that are files.
    pub texts: BTreeMap<String, String>,
    /// Where `/etc/resolv.conf` leads in the end, if it is a link; the target need not exist.
    pub resolv_conf_link: Option<String>,
}

/// An init of the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundInit {
    /// The name by which it is executed.
    pub path: String,
    /// The file behind its links.
    pub real: String,
}

/// Paths whose existence decides something.
pub const PROBES: [&str; 14] = [
    "/etc/inittab",
    "/usr/lib/systemd/systemd-networkd",
    "/lib/systemd/systemd-networkd",
    "/usr/lib/systemd/system/systemd-networkd.service",
    "/etc/systemd/system/multi-user.target.wants/systemd-resolved.service",
    "/etc/systemd/system/sysinit.target.wants/systemd-resolved.service",
    "/etc/systemd/system/dbus-org.freedesktop.resolve1.service",
    "/usr/sbin/NetworkManager",
    "/usr/bin/NetworkManager",
    "/usr/sbin/dhcpcd",
    "/sbin/dhcpcd",
    "/usr/sbin/ifup",
    "/sbin/ifup",
    "/usr/bin/cloud-init",
];

/// Files that are kept and added to.
pub const TEXTS: [&str; 2] = ["/etc/hosts", "/etc/dhcpcd.conf"];

impl RootFacts {
    /// Whether one of [`PROBES`] exists.
    pub fn present(&self, path: &str) -> bool {
        debug_assert!(PROBES.contains(&path), "{path} is not probed");
        self.present.contains(path)
    }

    /// Whether one of several of [`PROBES`] exists.
    pub fn any(&self, paths: &[&str]) -> bool {
        paths.iter().any(|path| self.present(path))
    }

    /// Looks at the root mounted on `root`; `wanted` is the kernel's own `init=`.
    pub fn of(root: &Path, wanted: Option<&str>) -> Self {
        let inits = wanted.into_iter().chain(INITS).filter_map(|path| {
            let real = resolve(root, path)?;
            let meta = fs::metadata(inside(root, &real)).ok()?;
            let executable = meta.is_file() && meta.permissions().mode() & 0o111 != 0;
            executable.then(|| FoundInit { path: path.to_owned(), real })
        });
        let exists = |path: &&str| match resolve_parent(root, path) {
            Some(found) => fs::symlink_metadata(found).is_ok(),
            None => false,
        };
        let text = |path: &str| {
            let file = inside(root, &resolve(root, path)?);
            let small = fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_TEXT);
            Some((path.to_owned(), fs::read_to_string(file).ok().filter(|_| small)?))
        };
        let resolv_conf = inside(root, "/etc/resolv.conf");
        let is_link = fs::symlink_metadata(&resolv_conf).is_ok_and(|meta| meta.is_symlink());
        Self {
            inits: inits.collect(),
            present: PROBES.iter().filter(|path| exists(path)).map(|path| (*path).to_owned()).collect(),
            texts: TEXTS.iter().filter_map(|path| text(path)).collect(),
            resolv_conf_link: if is_link { resolve(root, "/etc/resolv.conf") } else { None },
        }
    }
}

/// Where `path` of the root leads, as a path of the root. The target need not exist; `None` for links without end.
pub fn resolve(root: &Path, path: &str) -> Option<String> {
    let mut pending = parts_reversed(Path::new(path));
    let mut found = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            found.pop();
            continue;
        }
        let candidate = found.join(&part);
        match fs::read_link(inside(root, candidate.to_str()?)) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if target.is_absolute() {
                    found = PathBuf::from("/");
                }
                pending.extend(parts_reversed(&target));
            }
            Err(_) => found = candidate,
        }
    }
    found.to_str().map(str::to_owned)
}

/// The path itself, its directory's links followed and its own not.
pub fn resolve_parent(root: &Path, path: &str) -> Option<PathBuf> {
    let (parent, name) = path.rsplit_once('/')?;
    Some(inside(root, &resolve(root, parent)?).join(name))
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn parts_reversed(path: &Path) -> Vec<String> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        _ => None,
    };
    let mut parts: Vec<String> = path.components().filter_map(part).collect();
    parts.reverse();
    parts
}
