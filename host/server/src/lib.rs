//! HTTP API, events, viewer bridge, authentication, web page.
//!
//! * [`serve()`]: the daemon's listener, first token, demo identity provider, orderly end
//! * `app`: every route with the right it needs; router and `/openapi.json` share this source
//! * `access`: who may pass; `request`: request ids, log line, extractors; `error`: failures as answers
//! * one file per resource: `auth`, `sessions`, `events`, `vms`, `console`, `diagnosis`, `viewer` (page and ticket), `bridge`
//!   (screen), `operator` (page), `credentials`, `tokens`, `images`, `builds`, `evidence`, `health`, `metrics`, `reach`, `reconcile`, `dhcp`, `assets`
//! * [`demo_idp`]: the authorization server for first use
//!
//! A handler that panics answers 500 and the daemon lives on.

mod access;
mod app;
mod assets;
mod auth;
mod bridge;
mod builds;
mod console;
mod credentials;
pub mod demo_idp;
mod dhcp;
mod diagnosis;
mod error;
mod events;
mod evidence;
mod health;
mod images;
mod metrics;
mod operator;
mod reach;
mod reconcile;
mod request;
mod serve;
mod sessions;
mod tokens;
mod viewer;
mod views;
mod vms;

pub use app::{openapi, router};
pub use serve::{Ending, ServeError, prepare, serve, shutdown_signal};
