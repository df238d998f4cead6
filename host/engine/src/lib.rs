//! The engine: sessions and VMs as durable records, one task per VM, login flow, vault, evidence.
//!
//! * [`engine`]: the public face
//! * `lifecycle`: how sessions and their VMs come and go
//! * [`executor`]: steps applied and undone, with the journal around each
//! * [`reconcile`]: a pass that compares what is recorded with what is seen, and acts
//! * `vm`: the task that owns one VM; steps, boot, login
//! * `dhcp`: the DHCP server, which hands out what is recorded
//! * `choice`: which driver runs guests; [`providers`]: which tools can be signed in
//! * [`images`]: builds of images and their boot test
//! * [`records`]: what is remembered and shown
//! * [`store`]: everything durable, all SQL
//! * [`vault`]: envelope encryption of credentials; [`capture`]: from a guest's files to a sealed credential; `engine_vault`: the
//!   vault as the API has it
//! * [`audit`]: the chained and signed log of what was done
//! * [`evidence`]: what is kept of a VM that failed; `engine_evidence`: shown, exported and removed
//! * `engine_login`: what a person does about a login that runs
//! * `engine_diagnosis`: what is wrong with a VM; `engine_probe`: what host and guest say of it

pub mod audit;
pub mod capture;
mod choice;
mod clock;
mod context;
mod dhcp;
pub mod engine;
mod engine_diagnosis;
mod engine_evidence;
mod engine_login;
mod engine_probe;
mod engine_vault;
pub mod error;
pub mod evidence;
pub mod executor;
pub mod images;
mod lifecycle;
pub mod providers;
pub mod reconcile;
pub mod records;
mod secrets;
pub mod store;
pub mod vault;
mod vm;

pub use choice::DriverReport;
pub use clock::Moment;
pub use engine::{Engine, EngineHealth, OpenError, Screen, SessionWatch, Snapshot, StartSession, ViewerEnd};
pub use engine_login::LoginError;
pub use engine_probe::Facts;
pub use engine_vault::{AuditPage, GrantedLease, Purpose, Rotation, VaultStatus};
pub use error::{Error, ErrorKind};
