//! Golden image builder and registry.
//!
//! * [`recipe`]: what an image is made of; [`build()`] makes it, with [`progress`]
//! * [`registry`]: what was published, and whether it is still intact
//! * [`manifest`]: what an image says of itself
//! * [`error`]: why something cannot be built, found or trusted, with its remedy
//!
//! Every function blocks; an async caller puts them on a thread for blocking work. The library prints nothing.

pub mod builder;
mod cancel;
mod candidate;
pub mod cpio;
pub mod diff;
mod digest;
mod downloads;
pub mod elf;
pub mod error;
mod ext4;
mod files;
mod foreign;
mod gate;
pub mod gc;
pub mod guest_programs;
mod import;
mod inherit;
mod initramfs;
mod inventory;
pub mod job;
mod kernel;
mod layers;
mod lock;
pub mod manifest;
pub mod modules;
mod oci;
mod plan;
pub mod preflight;
pub mod progress;
pub mod recipe;
pub mod registry;
mod reporter;
mod rootfs;
pub mod sbom;
pub mod source;
mod state_dir;
mod strip;
mod tarball;
mod tool;
mod tree;
mod vmlinux;

pub use builder::{BuildOptions, build};
pub use cancel::Cancel;
pub use candidate::{Candidate, publish_candidate};
pub use error::ImageError;
pub use ext4::Ext4Fault;
pub use gate::{BootFailure, BootRecord, BootTest};
pub use manifest::Manifest;
pub use oci::OciError;
pub use progress::{BuildEvent, BuildStage};
pub use recipe::LoadedRecipe;
pub use registry::{GoldenImage, Registry};
pub use source::{KernelFile, Origin, RootSource};
pub use tarball::ArchiveError;
pub use vmlinux::VmlinuxFault;
