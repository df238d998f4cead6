//! What is in a root directory, as far as the preflight asks: programs with what they need to run, users, mounts. Collected when
//! the root is made, kept beside it in the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::elf_seen as elf;
use crate::error::ImageError;
use crate::inventory;
use crate::tree::Tree;

/// As much of a program as tells what it is; an interpreter's name stands at its start in practice.
const FIRST: u64 = 16 * 1024;
/// Links from directory to directory that a path goes through at most.
const MAX_LINKS: usize = 8;

/// A root directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSeen {
    /// Programs, and files that lie where programs do, by path; links to files as what they lead to.
    pub programs: BTreeMap<String, ProgramSeen>,
    /// Links to directories, e.g. `/bin` to `/usr/bin`.
    pub links: BTreeMap<String, String>,
    /// Links where programs lie that lead to nothing.
    pub dangling: BTreeSet<String>,
    /// Names in `/etc/passwd`.
    pub users: BTreeSet<String>,
    /// `/etc/fstab`.
    pub fstab: String,
}

/// A file that may be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSeen {
    /// Whether it has an executable bit.
    pub executable: bool,
    /// What its first bytes are.
    pub binary: Binary,
    /// What has to load it, if something has to.
    pub interpreter: Option<Interpreter>,
}

/// What a file's first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binary {
    /// ELF for this machine.
    Elf {
        /// `e_machine`.
        machine: u16,
    },
    /// `#!`.
    Script,
    /// No byte at all.
    Empty,
    /// Something else.
    Other,
}

/// The program that loads another: `ld-linux`, or the shell of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// Its path in the image.
    pub path: String,
    /// Whether it exists there.
    pub found: bool,
}

/// File name in a cache entry.
const FILE: &str = "root-seen.json";

impl RootSeen {
    /// Keeps what is in `root` beside the filesystem that is made of it.
    pub(crate) fn keep(root: &Path, entry: &Path) -> Result<(), ImageError> {
        inventory::keep(root, entry)?;
        let bytes = serde_json::to_vec(&Self::of(root)?).map_err(ImageError::Encode)?;
        let path = entry.join(FILE);
        fs::write(&path, bytes).map_err(ImageError::io("write", &path))
    }

    /// What was kept in a cache entry; none if nobody looked into its root.
    pub(crate) fn kept(entry: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(entry.join(FILE)).ok()?).ok()
    }

    /// Looks into a root directory.
    pub fn of(root: &Path) -> Result<Self, ImageError> {
        let tree = Tree::new(root);
        let text = |path: &str| tree.resolve(path).ok().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let passwd = String::from_utf8_lossy(&text("/etc/passwd")).into_owned();
        let mut seen = Self {
            users: passwd.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect(),
            fstab: String::from_utf8_lossy(&text("/etc/fstab")).into_owned(),
            ..Self::default()
        };
        tree.visit(&mut |path, meta| {
            let Ok(inside) = path.strip_prefix(root) else { return Ok(()) };
            let name = format!("/{}", inside.display());
            if meta.is_dir() || name.starts_with("/usr/share/") {
                return Ok(());
            }
            // A foreign root may have links that lead in a circle; those lead to nothing.
            let Ok(target) = tree.resolve(&name) else { return Ok(()) };
            match fs::symlink_metadata(&target) {
                Ok(found) if found.is_dir() => {
                    if let Ok(to) = target.strip_prefix(root) {
                        seen.links.insert(name, format!("/{}", to.display()));
                    }
                }
                Ok(found) if found.is_file() => {
                    let executable = found.mode() & 0o111 != 0;
                    if (executable && !name.contains(".so")) || lies_with_programs(&name) {
                        seen.programs.insert(name, program(&tree, &target, executable)?);
                    }
                }
                Ok(_) => {}
                Err(_) if lies_with_programs(&name) => {
                    seen.dangling.insert(name);
                }
                Err(_) => {}
            }
            Ok(())
        })?;
        Ok(seen)
    }

    /// The program at `path`, through links from directory to directory.
    pub fn program(&self, path: &str) -> Option<&ProgramSeen> {
        self.real(path, |path| self.programs.get(path))
    }

    /// Whether there is something at `path`, if only a link to nothing.
    pub fn exists(&self, path: &str) -> bool {
        self.program(path).is_some() || self.is_dangling(path)
    }

    /// Whether `path` is a link to nothing.
    pub fn is_dangling(&self, path: &str) -> bool {
        self.real(path, |path| self.dangling.get(path)).is_some()
    }

    /// Whether `path` exists and the image has a program of this name.
    pub fn leads_to(&self, path: &str, name: &str) -> bool {
        self.program(path).is_some() && self.programs.keys().any(|known| known.ends_with(&format!("/{name}")))
    }

    /// Whether there is such a user; a number needs no name.
    pub fn has_user(&self, user: &str) -> bool {
        user == "root" || user.starts_with(|c: char| c.is_ascii_digit()) || self.users.contains(user)
    }

    fn real<'a, T>(&'a self, path: &str, find: impl Fn(&str) -> Option<&'a T>) -> Option<&'a T> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            if let Some(found) = find(&path) {
                return Some(found);
            }
            let through = self.links.iter().find_map(|(link, to)| {
                let rest = path.strip_prefix(link.as_str())?;
                rest.starts_with('/').then(|| format!("{to}{rest}"))
            });
            path = through?;
        }
        None
    }
}

fn lies_with_programs(name: &str) -> bool {
    let (dir, file) = name.rsplit_once('/').unwrap_or(("", name));
    let dir = dir.rsplit('/').next().unwrap_or_default();
    matches!(dir, "bin" | "sbin") || file == "init" || file == "systemd"
}

fn program(tree: &Tree<'_>, file: &Path, executable: bool) -> Result<ProgramSeen, ImageError> {
    let mut first = Vec::new();
    let opened = File::open(file).and_then(|file| file.take(FIRST).read_to_end(&mut first));
    opened.map_err(ImageError::io("read", file))?;
    let (binary, interpreter) = if first.is_empty() {
        (Binary::Empty, None)
    } else if let Some(machine) = elf::machine(&first) {
        (Binary::Elf { machine }, elf::interpreter(&first))
    } else if let Some(line) = first.strip_prefix(b"#!") {
        let line = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned();
        (Binary::Script, line.split_whitespace().next().map(str::to_owned))
    } else {
        (Binary::Other, None)
    };
    let interpreter = interpreter.map(|path| {
        let found = tree.resolve(&path).is_ok_and(|found| found.is_file());
        Interpreter { path, found }
    });
    Ok(ProgramSeen { executable, binary, interpreter })
}
