//! Pure decisions of the host: no clock, no file system, no environment, no runtime. `now` is always an argument.
//!
//! * [`ids`]: identities of sessions and VMs
//! * [`config`]: the daemon's configuration, parsed and validated before anything is opened
//! * [`network`]: the private network of an installation and the names in it
//! * [`firewall`]: what guests may send, as text for nftables
//! * [`seed`]: what cloud-init is told on its seed drive
//! * [`vmm`]: what a VMM driver is asked to start
//! * [`provider`]: how a tool signs in
//! * [`cause`]: the fault catalogue's codes, each with its remedy
//! * [`boot`]: the boot machine, `(state, event, now) -> outputs`
//! * [`diagnosis`]: a console, a timeline and probes, turned into the first broken stage and its cause
//! * [`session`]: the session machine
//! * [`step`]: what a start does, each step beside its undo
//! * [`admission`]: whether a start may begin now, waits, or is refused
//! * [`evidence`]: ids of evidence bundles, which of them are kept
//! * [`redaction`]: logs without the secrets in them
//! * [`vault`]: where the vault's master keys come from
//! * [`credential_lease`]: who may refresh a credential
//! * [`reconcile`]: what is recorded and what is seen, turned into what to do

pub mod admission;
pub mod boot;
pub mod cause;
pub mod config;
pub mod credential_lease;
pub mod diagnosis;
pub mod evidence;
pub mod firewall;
pub mod ids;
pub mod network;
pub mod provider;
pub mod reconcile;
pub mod redaction;
pub mod seed;
pub mod session;
pub mod step;
pub mod vault;
pub mod vmm;

pub use cause::Cause;
pub use evidence::EvidenceId;
pub use ids::{SessionId, VmId};
