//! The list of everything in a root filesystem, kept beside it: what a later image is compared with.
//!
//! One line an entry, sorted by path: mode in octal, owner, then digest of a file, target of a link, or `-`, then the path. An
//! image that was taken over as a finished filesystem has none.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::digest;
use crate::error::ImageError;
use crate::tree::Tree;

/// File name, in the cache and in an image.
pub(crate) const INVENTORY_FILE: &str = "files.txt";

/// Lists `root` into the cache entry that is made of it.
pub(crate) fn keep(root: &Path, entry: &Path) -> Result<(), ImageError> {
    let mut lines = BTreeMap::new();
    Tree::new(root).visit(&mut |path, meta| {
        let Ok(inside) = path.strip_prefix(root) else { return Ok(()) };
        let content = if meta.is_file() {
            digest::of_file(path).map_err(ImageError::io("read", path))?.0
        } else if meta.is_symlink() {
            fs::read_link(path).map_err(ImageError::io("read", path))?.display().to_string()
        } else {
            "-".to_owned()
        };
        // A name with a line end would be two entries.
        let name = format!("/{}", inside.display()).replace('\n', "\u{fffd}");
        let content = content.replace(['\n', ' '], "\u{fffd}");
        lines.insert(name, format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid()));
        Ok(())
    })?;
    let text: String = lines.iter().map(|(name, facts)| format!("{facts} {name}\n")).collect();
    let path = entry.join(INVENTORY_FILE);
    fs::write(&path, text).map_err(ImageError::io("write", &path))
}

/// The list in a directory: facts by path.
pub(crate) fn read(dir: &Path) -> Option<BTreeMap<String, String>> {
    let text = fs::read_to_string(dir.join(INVENTORY_FILE)).ok()?;
    let entry = |line: &str| {
        let (at, _) = line.match_indices(' ').nth(2)?;
        Some((line[at + 1..].to_owned(), line[..at].to_owned()))
    };
    Some(text.lines().filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_changed_file_a_moved_link_and_a_new_mode_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let list = |content: &str, to: &str| {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("etc")).unwrap();
            fs::write(root.path().join("etc/a name"), content).unwrap();
            symlink(to, root.path().join("link")).unwrap();
            keep(root.path(), dir.path()).unwrap();
            read(dir.path()).unwrap()
        };
        let (first, second) = (list("a", "x"), list("b", "y"));
        assert_eq!(first.keys().collect::<Vec<_>>(), ["/", "/etc", "/etc/a name", "/link"]);
        assert_eq!(first["/etc"], second["/etc"]);
        assert!(first["/link"].ends_with(" x") && second["/link"].ends_with(" y"));
        assert_ne!(first["/etc/a name"], second["/etc/a name"]);
        assert!(read(&dir.path().join("nowhere")).is_none());
    }
}
