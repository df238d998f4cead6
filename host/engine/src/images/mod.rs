//! Golden images as the daemon and the command line make them: builds as jobs, the boot test before a publication, what is in use.

mod boot_test;
mod builds;
mod in_use;

pub use boot_test::{BootTestError, boot_test, clear_boot_test};
pub(crate) use builds::Builds;
pub use builds::{BuildNews, BuildWatch, StartBuild};
pub use in_use::images_in_use;
