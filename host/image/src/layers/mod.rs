//! Layers become one tree, and the tree becomes a directory.
//!
//! ```text
//! archive or blob --unpack--> cache/layer-<digest>/{layer.tar,layer.toml} --entries--> MergedTree --write--> directory
//! ```
//!
//! Layers are put together in memory, by the image specification's layer document; contents stay in the plain tars. Only the
//! finished tree is written, into an empty directory, top down: in a tree a link has no children, so no path that is written
//! leads through a link. A layer that is refused leaves no cache entry.

mod cache;
mod merge;
mod write;

pub(crate) use cache::{Layer, LayerCache};
pub(crate) use merge::MergedTree;
pub(crate) use write::write_tree;
