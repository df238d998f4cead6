//! HTTP bodies of the API (DESIGN section 8), shared by server and clients. Plain data, camelCase on the wire.
//!
//! A request refuses unknown fields, so a misspelt option is an error and not a surprise. A response may grow: readers ignore
//! what they do not know.
//!
//! * [`session`] (a sign-in, its state and its timeline)
//! * [`vm`] (machines), [`reach`] (what a machine's guest reaches)
//! * [`credential`], [`token`], [`catalog`] (images and providers), [`health`]
//! * [`build`] (builds of images)
//! * [`dhcp`] (the server that hands out addresses)
//! * [`vault`] (its keys), [`audit`] (the log of what was done, receipts)
//! * [`evidence`] (what is kept of machines that failed)
//! * [`diagnosis`] (what is wrong with a machine)
//! * [`error`] (the one error body)

pub mod audit;
pub mod build;
pub mod catalog;
pub mod credential;
pub mod dhcp;
pub mod diagnosis;
pub mod error;
pub mod evidence;
pub mod health;
pub mod reach;
pub mod reconcile;
pub mod session;
pub mod token;
pub mod vault;
pub mod vm;

pub use error::{ErrorBody, ErrorDetail};

/// Largest body of a credential that is written back, in bytes; every other request has [`MAX_REQUEST_BYTES`].
pub const MAX_CREDENTIAL_BYTES: usize = 1024 * 1024;

/// Largest request body that the server reads, in bytes.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
