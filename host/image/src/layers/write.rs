//! Writes a merged tree into an empty directory that belongs to this build alone.
//!
//! Every directory is made here, so nothing on the way to a file is a link. Names go in their order, so that tools that read
//! the directory see the same each time. Needs root for owners and devices. A failure leaves a part, which the build removes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::fs::{XattrFlags, lsetxattr};

use super::merge::{Content, MergedTree, Node};
use crate::cancel::Cancel;
use crate::error::ImageError;

/// Writes `tree` to `root`, which must not exist; `plain` are the layers' plain tars in their order.
pub(crate) fn write_tree(tree: &MergedTree, plain: &[PathBuf], root: &Path, cancel: &Cancel) -> Result<(), ImageError> {
    let open = |path: &PathBuf| File::open(path).map_err(ImageError::io("open", path));
    let plain = plain.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut writer = Writer { tree, plain, written: HashMap::new(), cancel };
    writer.directory(tree.root(), root)
}

struct Writer<'a> {
    tree: &'a MergedTree,
    plain: Vec<File>,
    /// Where a node that may have several names was written.
    written: HashMap<usize, PathBuf>,
    cancel: &'a Cancel,
}

impl Writer<'_> {
    fn directory(&mut self, node: usize, path: &Path) -> Result<(), ImageError> {
        self.cancel.check()?;
        DirBuilder::new().mode(0o700).create(path).map_err(ImageError::io("create directory", path))?;
        let tree = self.tree;
        let Node { content: Content::Directory(names), .. } = tree.node(node) else { return Ok(()) };
        for (name, entry) in names {
            self.name(entry.node, &path.join(name))?;
        }
        attributes(tree.node(node), path)
    }

    fn name(&mut self, node: usize, path: &Path) -> Result<(), ImageError> {
        let found = self.tree.node(node);
        if let Content::Directory(_) = found.content {
            return self.directory(node, path);
        }
        if let Some(first) = self.written.get(&node) {
            return fs::hard_link(first, path).map_err(ImageError::io("link", path));
        }
        match &found.content {
            Content::Directory(_) => {}
            Content::File(layer, stored) => {
                let mut out = OpenOptions::new();
                let out = out.write(true).create_new(true).mode(0o600).open(path);
                let mut out = out.map_err(ImageError::io("create", path))?;
                let mut from = &self.plain[*layer];
                from.seek(SeekFrom::Start(stored.offset)).map_err(ImageError::io("read a layer for", path))?;
                let copied = io::copy(&mut from.take(stored.len), &mut out).map_err(ImageError::io("write", path))?;
                if copied != stored.len {
                    return Err(ImageError::io("read a layer for", path)(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Content::Symlink(target) => {
                std::os::unix::fs::symlink(target, path).map_err(ImageError::io("link", path))?;
            }
            Content::CharacterDevice(major, minor) => device(path, SFlag::S_IFCHR, (*major, *minor))?,
            Content::BlockDevice(major, minor) => device(path, SFlag::S_IFBLK, (*major, *minor))?,
            Content::Fifo => device(path, SFlag::S_IFIFO, (0, 0))?,
        }
        self.written.insert(node, path.to_owned());
        attributes(found, path)
    }
}

fn device(path: &Path, kind: SFlag, (major, minor): (u32, u32)) -> Result<(), ImageError> {
    let made = mknod(path, kind, Mode::from_bits_truncate(0o600), makedev(major.into(), minor.into()));
    made.map_err(|errno| ImageError::io("create device", path)(errno.into()))
}

/// Owner first: a change of owner takes set-id bits and capabilities away.
fn attributes(node: &Node, path: &Path) -> Result<(), ImageError> {
    let meta = &node.meta;
    lchown(path, Some(meta.uid), Some(meta.gid)).map_err(ImageError::io("change owner of", path))?;
    if !matches!(node.content, Content::Symlink(_)) {
        let mode = fs::Permissions::from_mode(meta.mode);
        fs::set_permissions(path, mode).map_err(ImageError::io("change the mode of", path))?;
    }
    for (name, value) in &meta.xattrs {
        let set = lsetxattr(path, name.as_os_str() as &OsStr, value, XattrFlags::empty());
        set.map_err(|errno| ImageError::io("set an attribute of", path)(errno.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::testing::Tar;
    use crate::tarball::{Limits, read_entries};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    /// Root is needed for owners and devices, as for any build.
    #[test]
    fn everything_of_the_layers_is_there_as_it_should_be() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: owners and devices need root");
            return;
        }
        let capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        let layers = [
            Tar::new()
                .directory("./", 0o755)
                .owned("usr/bin/su", b"su", (0, 0), 0o4755)
                .with_xattr("usr/bin/ping", b"ping", "security.capability", capability)
                .symlink("bin", "usr/bin")
                .symlink("etc/mtab", "/proc/self/mounts"),
            Tar::new()
                .hard_link("usr/bin/su2", "usr/bin/su")
                .owned("home/u/.profile", b"hello", (1000, 1001), 0o600)
                .device("dev/null", b'3', (1, 3))
                .device("run/pipe", b'6', (0, 0)),
        ];
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut tree = MergedTree::new();
        let mut plain = Vec::new();
        for (index, layer) in layers.into_iter().enumerate() {
            let path = dir.path().join(format!("layer{index}"));
            fs::write(&path, layer.finish()).unwrap();
            tree.apply(read_entries(&path, "layer", true, Limits::DEFAULT).unwrap()).unwrap();
            plain.push(path);
        }
        let root = dir.path().join("root");
        write_tree(&tree, &plain, &root, &Cancel::new()).unwrap();

        let meta = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
        assert_eq!(meta("usr/bin/su").mode() & 0o7777, 0o4755);
        assert_eq!(meta("usr/bin/su").ino(), meta("usr/bin/su2").ino());
        assert_eq!(fs::read(root.join("home/u/.profile")).unwrap(), b"hello");
        let profile = meta("home/u/.profile");
        assert_eq!((profile.uid(), profile.gid(), profile.mode() & 0o7777), (1000, 1001, 0o600));
        assert_eq!(fs::read_link(root.join("etc/mtab")).unwrap(), Path::new("/proc/self/mounts"));
        assert!(meta("dev/null").file_type().is_char_device());
        assert_eq!(meta("dev/null").rdev(), makedev(1, 3));
        assert!(meta("run/pipe").file_type().is_fifo());
        let mut value = [0; 64];
        let len = rustix::fs::lgetxattr(root.join("usr/bin/ping"), "security.capability", &mut value).unwrap();
        assert_eq!(&value[..len], capability);
        // An existing directory is never written into.
        assert!(write_tree(&tree, &plain, &root, &Cancel::new()).is_err());
    }
}
