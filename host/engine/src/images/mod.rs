//! Golden images as the daemon and the command line make them: builds as jobs, the boot test before a publication, what is in use.

mod boot_test;

pub use boot_test::{BootTestError, boot_test, clear_boot_test};
