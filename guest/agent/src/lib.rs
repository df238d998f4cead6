//! The in-guest service as parts that can be tested without a VM.
//!
//! * [`service`]: what runs, and in which order it starts
//! * [`timeline`]: stages of init and agent; [`health`] shows them over HTTP, [`control`] sends them to the host,
//!   over virtio-serial or [`vsock`]
//! * [`display`]: X display, browser window, painted page; [`screen_due`]: what is said when they do not come; [`start_page`]: the page the browser waits on
//! * [`screen_password`]: who may see that display over RFB
//! * [`login`]: runs a provider's tool on a terminal and captures what it writes
//! * [`owner`]: what the interface has, and who changed it
//! * [`reach`]: what the host asks of this guest's network; [`facts`]: what it asks of the guest itself
//! * [`launch`], [`open_shim`], [`demo_tool`]: the small programs behind the other names of this one
//!
//! Each part runs on its own threads; the failure of one is reported and leaves the others as they are.

pub mod addresses;
pub mod browser;
pub mod clock;
pub mod control;
pub mod demo_tool;
pub mod display;
pub mod facts;
pub mod health;
pub mod http;
pub mod launch;
pub mod login;
pub mod open_shim;
pub mod outbox;
pub mod owner;
pub mod painted;
pub mod port;
pub mod reach;
pub mod screen_due;
pub mod screen_password;
pub mod service;
pub mod socket_wait;
pub mod start_page;
pub mod timeline;
pub mod vsock;

/// Build id of this program, given by the build of the image; must equal the image manifest's.
pub const BUILD_ID: &str = match option_env!("AIRLOCK_BUILD_ID") {
    Some(id) => id,
    None => "dev",
};

/// Locks, also after another thread panicked while it held the lock: what these locks guard is valid at any time.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Starts a named thread. Its failure to start is returned, its panic ends only itself.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}
