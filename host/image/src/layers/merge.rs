//! One tree of several layers, in memory: what each layer adds, replaces, hides.
//!
//! Source: the OCI image specification, `layer.md`. Links are followed inside the tree as a container runtime would, but a
//! relative link only, and never above the root: an entry that lies behind any other link is refused. No file of this host
//! is touched.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

use crate::tarball::{ArchiveError, Entry, Kind, Meta, Stored, shown};

/// More links than the kernel follows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// A directory that no entry names.
const IMPLICIT_MODE: u32 = 0o755;
const ROOT: usize = 0;

/// A root being put together.
#[derive(Debug)]
pub(crate) struct MergedTree {
    /// Nodes that nothing names any more stay until the tree is dropped.
    nodes: Vec<Node>,
    layers: usize,
}

/// A file, directory or whatever else. Hard links are several names of one node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) content: Content,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Content {
    Directory(BTreeMap<OsString, Name>),
    /// Number of the layer whose plain tar holds it, and where.
    File(usize, Stored),
    Symlink(OsString),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    pub(crate) node: usize,
    /// The layer that put it there or changed it last.
    layer: usize,
}

impl MergedTree {
    /// A tree with nothing but a root.
    pub(crate) fn new() -> Self {
        let root = Node { meta: implicit(), content: Content::Directory(BTreeMap::new()) };
        Self { nodes: vec![root], layers: 0 }
    }

    /// Puts the next layer on top. After a failure the tree is of no use.
    pub(crate) fn apply(&mut self, entries: Vec<Entry>) -> Result<(), ArchiveError> {
        for entry in entries {
            self.add(entry)?;
        }
        self.layers += 1;
        Ok(())
    }

    /// The root's number.
    pub(crate) fn root(&self) -> usize {
        ROOT
    }

    /// A node by its number.
    pub(crate) fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    fn add(&mut self, entry: Entry) -> Result<(), ArchiveError> {
        let Entry { path, meta, kind } = entry;
        let Some((name, parents)) = path.split_last() else {
            match kind {
                Kind::Opaque => self.hide_below(ROOT),
                // The reader lets nothing else stand for the root.
                _ => self.nodes[ROOT].meta = meta,
            }
            return Ok(());
        };
        if matches!(kind, Kind::Whiteout | Kind::Opaque) {
            return self.hide(&path, name, parents, &kind);
        }
        let parent = self.directory(parents, &path)?;
        let content = match kind {
            Kind::Directory => return self.add_directory(parent, name, meta),
            Kind::HardLink(target) => {
                let node = self.hard_link_target(&target, &path)?;
                return self.put(parent, name, node);
            }
            Kind::File(stored) => Content::File(self.layers, stored),
            Kind::Symlink(target) => Content::Symlink(target),
            Kind::CharacterDevice(major, minor) => Content::CharacterDevice(major, minor),
            Kind::BlockDevice(major, minor) => Content::BlockDevice(major, minor),
            Kind::Fifo => Content::Fifo,
            Kind::Whiteout | Kind::Opaque => return Ok(()),
        };
        let node = self.new_node(Node { meta, content });
        self.put(parent, name, node)
    }

    /// A directory stays and gets new attributes; anything else of that name is replaced.
    fn add_directory(&mut self, parent: usize, name: &OsStr, meta: Meta) -> Result<(), ArchiveError> {
        let there = self.child(parent, name).map(|name| name.node);
        if let Some(node) = there.filter(|node| self.is_directory(*node)) {
            self.nodes[node].meta = meta;
            return self.put(parent, name, node);
        }
        let node = self.new_node(Node { meta, content: Content::Directory(BTreeMap::new()) });
        self.put(parent, name, node)
    }

    fn put(&mut self, parent: usize, name: &OsStr, node: usize) -> Result<(), ArchiveError> {
        let layer = self.layers;
        if let Content::Directory(names) = &mut self.nodes[parent].content {
            names.insert(name.to_owned(), Name { node, layer });
        }
        Ok(())
    }

    /// Hides names of lower layers; what this layer itself put there stays, wherever the whiteout stands in it.
    fn hide(&mut self, path: &[OsString], name: &OsStr, parents: &[OsString], kind: &Kind) -> Result<(), ArchiveError> {
        let Some(parent) = self.find(parents, path)? else { return Ok(()) };
        let Some(hidden) = self.child(parent, name) else { return Ok(()) };
        if *kind == Kind::Opaque {
            self.hide_below(hidden.node);
            return Ok(());
        }
        self.hide_below(hidden.node);
        let ours = hidden.layer == self.layers;
        if let Content::Directory(names) = &mut self.nodes[parent].content
            && !ours
        {
            names.remove(name);
        }
        Ok(())
    }

    fn hide_below(&mut self, node: usize) {
        let layer = self.layers;
        // Names of this layer stay, and with them the directories on the way to them, which this layer made or named.
        let mut pending = vec![node];
        while let Some(node) = pending.pop() {
            if let Content::Directory(names) = &mut self.nodes[node].content {
                names.retain(|_, name| name.layer == layer);
                pending.extend(names.values().map(|name| name.node));
            }
        }
    }

    fn hard_link_target(&mut self, target: &[OsString], entry: &[OsString]) -> Result<usize, ArchiveError> {
        let broken = || ArchiveError::HardLink { entry: shown(entry), target: shown(target) };
        let (name, parents) = target.split_last().ok_or_else(broken)?;
        let parent = self.find(parents, entry)?.ok_or_else(broken)?;
        let node = self.child(parent, name).ok_or_else(broken)?.node;
        if self.is_directory(node) { Err(broken()) } else { Ok(node) }
    }

    /// The directory of these parts, made where it does not exist.
    fn directory(&mut self, parts: &[OsString], entry: &[OsString]) -> Result<usize, ArchiveError> {
        Ok(self.walk(parts, entry, true)?.unwrap_or(ROOT))
    }

    /// The directory of these parts, if it exists.
    fn find(&mut self, parts: &[OsString], entry: &[OsString]) -> Result<Option<usize>, ArchiveError> {
        self.walk(parts, entry, false)
    }

    fn walk(&mut self, parts: &[OsString], entry: &[OsString], make: bool) -> Result<Option<usize>, ArchiveError> {
        let mut pending: VecDeque<OsString> = parts.iter().cloned().collect();
        let mut way = vec![ROOT];
        let mut walked: Vec<OsString> = Vec::new();
        let mut links = 0;
        // The latest link, by its name and where it leads.
        let mut followed = (String::new(), String::new());
        let escapes = |(link, target): &(String, String)| ArchiveError::LinkEscapes {
            entry: shown(entry),
            link: link.clone(),
            target: target.clone(),
        };
        while let Some(part) = pending.pop_front() {
            let here = way.last().copied().unwrap_or(ROOT);
            if part == ".." {
                // Only a link has it.
                if way.len() == 1 {
                    return Err(escapes(&followed));
                }
                way.pop();
                walked.pop();
                continue;
            }
            let Some(Name { node, .. }) = self.child(here, &part) else {
                if !make {
                    return Ok(None);
                }
                let node = self.new_node(Node { meta: implicit(), content: Content::Directory(BTreeMap::new()) });
                self.put(here, &part, node)?;
                way.push(node);
                walked.push(part);
                continue;
            };
            walked.push(part);
            match &self.nodes[node].content {
                Content::Directory(_) => {
                    way.push(node);
                    // What lies in it is this layer's, so the way to it is too.
                    if make && let Some(part) = walked.last().cloned() {
                        self.put(here, &part, node)?;
                    }
                }
                Content::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ArchiveError::LinkLoop { entry: shown(entry) });
                    }
                    followed = (shown(&walked), target.to_string_lossy().into_owned());
                    let parts = relative(target).ok_or_else(|| escapes(&followed))?;
                    walked.pop();
                    for part in parts.into_iter().rev() {
                        pending.push_front(part);
                    }
                }
                _ => {
                    return Err(ArchiveError::ParentNotDirectory { entry: shown(entry), parent: shown(&walked) });
                }
            }
        }
        Ok(way.last().copied())
    }

    fn child(&self, directory: usize, name: &OsStr) -> Option<Name> {
        match &self.nodes[directory].content {
            Content::Directory(names) => names.get(name).copied(),
            _ => None,
        }
    }

    fn is_directory(&self, node: usize) -> bool {
        matches!(self.nodes[node].content, Content::Directory(_))
    }

    fn new_node(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }
}

fn implicit() -> Meta {
    Meta { mode: IMPLICIT_MODE, ..Meta::default() }
}

/// The parts of a relative link; nothing for any other.
fn relative(target: &OsStr) -> Option<Vec<OsString>> {
    let mut parts = Vec::new();
    for part in Path::new(target).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::ParentDir => parts.push("..".into()),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests;
