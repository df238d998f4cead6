//! What crosses the host-guest line. No I/O lives here: every type is plain data with its text or byte form.
//!
//! * [`stage`]: the named steps of a boot, and the `@airlock {json}` console line that reports one
//! * [`ip_param`]: the kernel's `ip=` parameter, all ten fields
//! * [`boot_config`]: the guest's whole kernel command line, `ip=` plus the `airlock.*` keys
//! * [`guest_config`]: the file in the initramfs that says what this image needs (modules, root, services)
//! * [`frame`] and [`message`]: the control channel, length-prefixed JSON over any byte stream
//! * [`health`]: the body of the agent's `GET /health`
//! * [`facts`]: what the agent sees of its guest when it is asked
//! * [`icmp`]: echo on the wire
//! * [`accounts`]: users of the guest, from the texts of its passwd and group files
//! * [`vnc_auth`]: the password of the guest's RFB server
//! * [`redact`]: text that may hold secrets, made fit for a console

pub mod accounts;
pub mod boot_config;
pub mod facts;
pub mod frame;
pub mod guest_config;
pub mod health;
pub mod icmp;
pub mod ip_param;
pub mod mac;
pub mod message;
pub mod paths;
pub mod redact;
pub mod sensitive;
pub mod stage;
pub mod vnc_auth;

pub use boot_config::BootConfig;
pub use guest_config::GuestConfig;
pub use ip_param::IpParam;
pub use mac::MacAddr;
pub use sensitive::Sensitive;
pub use stage::{Stage, StageReport};
