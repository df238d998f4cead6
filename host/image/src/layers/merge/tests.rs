//! Layers as tools write them, and as nobody honest writes them.

use super::*;
use crate::tarball::testing::Tar;
use crate::tarball::{Limits, read_entries};

fn apply(tree: &mut MergedTree, tar: Tar) -> Result<(), ArchiveError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), tar.finish()).unwrap();
    tree.apply(read_entries(file.path(), "layer", true, Limits::DEFAULT).unwrap())
}

fn merged(layers: impl IntoIterator<Item = Tar>) -> MergedTree {
    let mut tree = MergedTree::new();
    for layer in layers {
        apply(&mut tree, layer).unwrap();
    }
    tree
}

fn refused(layers: impl IntoIterator<Item = Tar>) -> ArchiveError {
    let mut tree = MergedTree::new();
    layers.into_iter().find_map(|layer| apply(&mut tree, layer).err()).expect("nothing was refused")
}

/// Every path of the tree with its node, directories with a slash.
fn listed(tree: &MergedTree) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![(String::new(), ROOT)];
    while let Some((path, node)) = pending.pop() {
        let Content::Directory(names) = &tree.node(node).content else { continue };
        for (name, Name { node, .. }) in names {
            let path = format!("{path}{}", name.to_str().unwrap());
            let directory = tree.is_directory(*node);
            found.push(if directory { format!("{path}/") } else { path.clone() });
            pending.push((format!("{path}/"), *node));
        }
    }
    found.sort();
    found
}

fn node(tree: &MergedTree, path: &str) -> usize {
    path.split('/').fold(ROOT, |node, part| tree.child(node, part.as_ref()).unwrap().node)
}

#[test]
fn a_layer_adds_replaces_and_hides() {
    let tree = merged([
        Tar::new().directory("etc", 0o755).file("etc/a", b"1").file("etc/b", b"1").file("opt/x/y/z", b"1"),
        Tar::new().file("etc/.wh.a", b"").file("etc/b", b"22").file("opt/.wh.x", b"").file("etc/.wh.gone", b""),
    ]);
    assert_eq!(listed(&tree), ["etc/", "etc/b", "opt/"]);
    assert!(matches!(tree.node(node(&tree, "etc/b")).content, Content::File(1, Stored { len: 2, .. })));
}

/// "Whiteout files MUST only apply to resources in lower/parent layers", whatever their order in the layer.
#[test]
fn a_whiteout_spares_what_its_own_layer_brings() {
    let below = || Tar::new().file("d/old", b"").file("d/sub/old", b"").file("f", b"old");
    let whiteout = |tar: Tar| tar.file(".wh.d", b"").file(".wh.f", b"");
    let brings = |tar: Tar| tar.directory("d", 0o700).file("d/sub/new", b"").file("f", b"new");
    for layer in [whiteout(brings(Tar::new())), brings(whiteout(Tar::new()))] {
        let tree = merged([below(), layer]);
        assert_eq!(listed(&tree), ["d/", "d/sub/", "d/sub/new", "f"]);
    }
}

#[test]
fn an_opaque_directory_shows_only_its_own_layer() {
    let below = || Tar::new().file("d/old", b"").file("d/sub/old", b"").file("other", b"");
    let opaque = |tar: Tar| tar.file("d/.wh..wh..opq", b"");
    let brings = |tar: Tar| tar.file("d/sub/new", b"");
    for layer in [opaque(brings(Tar::new())), brings(opaque(Tar::new()))] {
        assert_eq!(listed(&merged([below(), layer])), ["d/", "d/sub/", "d/sub/new", "other"]);
    }
    assert_eq!(listed(&merged([below(), Tar::new().file(".wh..wh..opq", b"").file("n", b"")])), ["n"]);
}

#[test]
fn a_hard_link_outlives_its_other_name_also_across_layers() {
    let tree = merged([
        Tar::new().file("bin/a", b"1").hard_link("bin/b", "bin/a"),
        Tar::new().hard_link("c", "bin/b").file("bin/.wh.a", b""),
    ]);
    assert_eq!(listed(&tree), ["bin/", "bin/b", "c"]);
    assert_eq!(node(&tree, "bin/b"), node(&tree, "c"));
    for target in ["nowhere", "bin"] {
        let err = refused([Tar::new().file("bin/a", b""), Tar::new().hard_link("x", target)]);
        assert_eq!(err.code(), "archive_hard_link_broken", "{err}");
    }
}

#[test]
fn a_file_and_a_directory_replace_each_other() {
    let tree = merged([Tar::new().file("a", b"").file("d/x", b""), Tar::new().directory("a", 0o700).file("d", b"")]);
    assert_eq!(listed(&tree), ["a/", "d"]);
    assert_eq!(tree.node(node(&tree, "a")).meta.mode, 0o700);
    // A link is replaced by a directory, not followed.
    let tree =
        merged([Tar::new().directory("t", 0o755).symlink("l", "t"), Tar::new().directory("l", 0o755).file("l/x", b"")]);
    assert_eq!(listed(&tree), ["l/", "l/x", "t/"]);
    let err = refused([Tar::new().file("a", b""), Tar::new().file("a/b", b"")]);
    assert!(matches!(&err, ArchiveError::ParentNotDirectory { parent, .. } if parent == "a"), "{err}");
}

/// Distributions with merged /usr: a layer may name files by the old path.
#[test]
fn relative_links_inside_the_root_are_followed() {
    let tree = merged([
        Tar::new().directory("usr/bin", 0o755).symlink("bin", "usr/bin").symlink("usr/sbin", "../usr/./bin"),
        Tar::new()
            .file("bin/sh", b"")
            .file("usr/sbin/init", b"")
            .file("bin/.wh.gone", b"")
            .symlink("dangling", "later"),
        Tar::new().file("dangling/x", b"").file("bin/.wh.sh", b""),
    ]);
    assert_eq!(listed(&tree), ["bin", "dangling", "later/", "later/x", "usr/", "usr/bin/", "usr/bin/init", "usr/sbin"]);
}

#[test]
fn links_that_lead_out_of_the_root_are_refused() {
    let links =
        [("l", "/etc"), ("l", "../../etc"), ("l", ".."), ("d/l", "../../etc"), ("l", "/"), ("d/l", "a/../../..")];
    for (link, target) in links {
        let setup = || Tar::new().directory("d/a", 0o755).symlink(link, target);
        let behind = format!("{link}/passwd");
        // In one layer, and across two.
        for layers in [vec![setup().file(&behind, b"x")], vec![setup(), Tar::new().file(&behind, b"x")]] {
            let err = refused(layers);
            assert_eq!(err.code(), "archive_link_escapes", "{link} -> {target}: {err}");
            assert!(err.to_string().contains(target) && err.to_string().contains(&behind), "{err}");
        }
        // Nor do a hard link, a whiteout or an opaque mark reach through it.
        for tar in [
            Tar::new().hard_link("h", &behind),
            Tar::new().symlink(&behind, "x"),
            Tar::new().file(&format!("{link}/.wh.passwd"), b""),
            Tar::new().file(&format!("{link}/x/.wh..wh..opq"), b""),
        ] {
            assert_eq!(refused([setup(), tar]).code(), "archive_link_escapes", "{link} -> {target}");
        }
    }
    // A chain of links, each of which looks harmless.
    let chain = Tar::new().directory("a/b", 0o755).symlink("a/b/up", "..").symlink("x", "a/b/up/../..");
    assert_eq!(refused([chain, Tar::new().file("x/passwd", b"")]).code(), "archive_link_escapes");
    let circle = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert!(matches!(refused([circle]), ArchiveError::LinkLoop { .. }));
}
