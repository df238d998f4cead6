//! Changes a root directory that is not ours to run: users, files, the facts of the build host that must not stay in it.
//!
//! Every path is resolved inside the root, symbolic links included: a link to an absolute path in the image never leads
//! to the build host. A failure leaves a half-changed tree, which the builder throws away.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::ImageError;
use crate::recipe::{LoadedRecipe, User};

/// More links than the kernel follows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// The root of an image on the build host.
pub(crate) struct Tree<'a> {
    root: &'a Path,
}

impl<'a> Tree<'a> {
    /// The tree below `root`.
    pub(crate) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// Where `path` of the image lies on the build host. The last part need not exist.
    pub(crate) fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let mut pending: Vec<String> = parts_reversed(Path::new(path));
        let mut inside = PathBuf::new();
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == ".." {
                inside.pop();
                continue;
            }
            let candidate = self.root.join(&inside).join(&part);
            match fs::symlink_metadata(&candidate) {
                Ok(meta) if meta.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(io::Error::from_raw_os_error(nix::errno::Errno::ELOOP as i32));
                    }
                    let target = fs::read_link(&candidate)?;
                    if target.is_absolute() {
                        inside.clear();
                    }
                    pending.extend(parts_reversed(&target));
                }
                _ => inside.push(part),
            }
        }
        Ok(self.root.join(inside))
    }

    /// Adds the recipe's users and writes its files.
    pub(crate) fn apply(&self, loaded: &LoadedRecipe) -> Result<(), ImageError> {
        let mut ids = BTreeMap::from([("root", 0)]);
        for user in &loaded.recipe.users {
            self.add_user(user, loaded.recipe.epoch)?;
            ids.insert(&user.name, user.uid);
        }
        for (file, content) in loaded.recipe.files.iter().zip(&loaded.contents) {
            // Validation has made sure that the owner is one of them.
            let id = ids.get(file.owner.as_str()).copied().unwrap_or(0);
            match &file.link {
                Some(target) => self.make_link(&file.path, target)?,
                None => self.write_file(&file.path, file.mode, id, content)?,
            }
        }
        Ok(())
    }

    fn add_user(&self, user: &User, epoch: u64) -> Result<(), ImageError> {
        let passwd_path = self.resolve("/etc/passwd").map_err(ImageError::io("resolve", Path::new("/etc/passwd")))?;
        let passwd = fs::read_to_string(&passwd_path).map_err(ImageError::io("read", &passwd_path))?;
        let taken = passwd.lines().any(|line| {
            let mut fields = line.split(':');
            fields.next() == Some(&user.name) || fields.nth(1) == Some(&user.uid.to_string())
        });
        if taken {
            return Err(ImageError::UserExists { name: user.name.clone(), uid: user.uid });
        }
        let User { name, uid, home, shell } = user;
        self.append("/etc/passwd", &format!("{name}:x:{uid}:{uid}::{home}:{shell}\n"))?;
        self.append("/etc/group", &format!("{name}:x:{uid}:\n"))?;
        // shadow(5): "!" is no password; the date of the last change counts days.
        self.append("/etc/shadow", &format!("{name}:!:{}:0:99999:7:::\n", epoch / 86_400))?;
        let home = self.make_directories(home, 0)?;
        chown(&home, Some(*uid), Some(*uid)).map_err(ImageError::io("change owner of", &home))?;
        set_mode(&home, 0o700)
    }

    fn append(&self, path: &str, line: &str) -> Result<(), ImageError> {
        let path = self.resolve(path).map_err(ImageError::io("resolve", Path::new(path)))?;
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(ImageError::io("append to", &path))
    }

    /// Writes a file, replacing what is there; missing parents belong to `owner` too.
    pub(crate) fn write_file(&self, path: &str, mode: u32, owner: u32, content: &[u8]) -> Result<(), ImageError> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_directories(parent, owner)?;
        }
        let target = self.resolve(path).map_err(ImageError::io("resolve", Path::new(path)))?;
        fs::write(&target, content).map_err(ImageError::io("write", &target))?;
        chown(&target, Some(owner), Some(owner)).map_err(ImageError::io("change owner of", &target))?;
        set_mode(&target, mode)
    }

    /// Makes a symbolic link, replacing what is there.
    fn make_link(&self, path: &str, target: &str) -> Result<(), ImageError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or_default();
        let link = self.make_directories(parent, 0)?.join(name);
        remove(&link)?;
        std::os::unix::fs::symlink(target, &link).map_err(ImageError::io("link", &link))
    }

    fn make_directories(&self, path: &str, owner: u32) -> Result<PathBuf, ImageError> {
        let mut whole = self.root.to_owned();
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far = format!("{so_far}/{part}");
            whole = self.resolve(&so_far).map_err(ImageError::io("resolve", Path::new(&so_far)))?;
            match fs::DirBuilder::new().mode(0o755).create(&whole) {
                Ok(()) => {
                    chown(&whole, Some(owner), Some(owner)).map_err(ImageError::io("change owner of", &whole))?;
                    set_mode(&whole, 0o755)?;
                }
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(ImageError::io("create directory", &whole)(err)),
            }
        }
        Ok(whole)
    }

    /// Removes what belongs to the build host or to this build: names, resolver, machine id, logs, caches, device nodes.
    pub(crate) fn neutralize(&self) -> Result<(), ImageError> {
        for path in ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/etc/machine-id"] {
            // The file itself, not what a link points to: the link would dangle in the guest.
            remove(&self.root.join(&path[1..]))?;
        }
        self.write_file("/etc/resolv.conf", 0o644, 0, b"")?;
        self.write_file("/etc/hosts", 0o644, 0, b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n")?;
        self.write_file("/etc/hostname", 0o644, 0, b"airlock\n")?;
        self.write_file("/etc/machine-id", 0o444, 0, b"")?;
        for dir in ["dev", "run", "tmp", "proc", "sys", "var/tmp", "var/log", "var/lib/apt/lists", "var/cache/apt"] {
            self.empty(&self.root.join(dir))?;
        }
        for path in
            ["var/cache/debconf/config.dat-old", "var/cache/debconf/templates.dat-old", "var/cache/ldconfig/aux-cache"]
        {
            remove(&self.root.join(path))?;
        }
        Ok(())
    }

    fn empty(&self, dir: &Path) -> Result<(), ImageError> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(ImageError::io("list", dir)(err)),
        };
        for entry in entries {
            remove(&entry.map_err(ImageError::io("list", dir))?.path())?;
        }
        Ok(())
    }

    /// Gives every file and directory the same modification time, so that caches which compare times
    /// (fontconfig, icon themes) see in the guest what they saw here.
    pub(crate) fn set_times(&self, epoch: u64) -> Result<(), ImageError> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
        let times = FileTimes::new().set_accessed(time).set_modified(time);
        self.visit(&mut |path, meta| {
            if meta.is_file() || meta.is_dir() {
                let file = File::open(path).map_err(ImageError::io("open", path))?;
                file.set_times(times).map_err(ImageError::io("set the time of", path))?;
            }
            Ok(())
        })
    }

    /// The init that would take PID 1 over, where the kernel looks for one (init/main.c: kernel_init) and where systemd is.
    pub(crate) fn init(&self) -> Option<&'static str> {
        const INITS: [&str; 6] =
            ["/sbin/init", "/etc/init", "/bin/init", "/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
        INITS.into_iter().find(|path| {
            let meta = self.resolve(path).and_then(fs::symlink_metadata);
            meta.is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
        })
    }

    /// Every executable file of the image, by each of its names; symbolic links that lead to one included.
    pub(crate) fn executables(&self) -> Result<Vec<String>, ImageError> {
        let mut found = Vec::new();
        self.visit(&mut |path, meta| {
            let Ok(inside) = path.strip_prefix(self.root) else { return Ok(()) };
            let name = format!("/{}", inside.display());
            if name.starts_with("/usr/share/") || name.contains(".so") || meta.is_dir() {
                return Ok(());
            }
            let target = self.resolve(&name).ok().and_then(|target| fs::symlink_metadata(target).ok());
            if target.is_some_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0) {
                found.push(name);
            }
            Ok(())
        })?;
        found.sort();
        Ok(found)
    }

    pub(crate) fn visit(
        &self,
        each: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let mut pending = vec![self.root.to_owned()];
        while let Some(path) = pending.pop() {
            let meta = fs::symlink_metadata(&path).map_err(ImageError::io("read", &path))?;
            if meta.is_dir() {
                for entry in fs::read_dir(&path).map_err(ImageError::io("list", &path))? {
                    pending.push(entry.map_err(ImageError::io("list", &path))?.path());
                }
            }
            each(&path, &meta)?;
        }
        Ok(())
    }
}

/// Names and versions of the installed packages, from the text of `/var/lib/dpkg/status`.
pub(crate) fn installed_packages(status: &str) -> BTreeMap<String, String> {
    let field = |paragraph: &str, name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    status
        .split("\n\n")
        .filter(|paragraph| field(paragraph, "Status:").is_some_and(|status| status.ends_with(" installed")))
        .filter_map(|paragraph| Some((field(paragraph, "Package:")?, field(paragraph, "Version:")?)))
        .collect()
}

fn parts_reversed(path: &Path) -> Vec<String> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        _ => None,
    });
    let mut parts: Vec<String> = parts.collect();
    parts.reverse();
    parts
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ImageError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(ImageError::io("change the mode of", path))
}

/// Removes a file or a whole directory; nothing there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), ImageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(err) => Err(err),
    };
    match removed {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(err)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_never_lead_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/etc/../../../tmp", root.join("out")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let tree = Tree::new(root);
        assert_eq!(tree.resolve("/bin/sh").unwrap(), root.join("usr/bin/sh"));
        assert_eq!(tree.resolve("/out/x").unwrap(), root.join("tmp/x"));
        assert_eq!(tree.resolve("/../../x").unwrap(), root.join("x"));
        assert_eq!(tree.resolve("/loop/x").unwrap_err().raw_os_error(), Some(40));
    }

    #[test]
    fn executables_are_found_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/real"), "x").unwrap();
        set_mode(&root.join("usr/bin/real"), 0o755).unwrap();
        fs::write(root.join("usr/bin/data"), "x").unwrap();
        set_mode(&root.join("usr/bin/data"), 0o644).unwrap();
        symlink("/usr/bin/real", root.join("usr/bin/name")).unwrap();
        symlink("/usr/bin/gone", root.join("usr/bin/dangling")).unwrap();
        let tree = Tree::new(root);
        assert_eq!(tree.executables().unwrap(), ["/usr/bin/name", "/usr/bin/real"]);
        assert_eq!(tree.init(), None);
        fs::create_dir(root.join("sbin")).unwrap();
        symlink("../usr/bin/data", root.join("sbin/init")).unwrap();
        assert_eq!(tree.init(), None);
        symlink("/usr/bin/name", root.join("init")).unwrap();
        assert_eq!(tree.init(), Some("/init"));
    }

    #[test]
    fn only_installed_packages_count() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 2\n";
        assert_eq!(installed_packages(status), BTreeMap::from([("a".to_owned(), "1".to_owned())]));
    }
}
