//! HTTP API, events, viewer bridge, authentication, web page.

pub mod demo_idp;
