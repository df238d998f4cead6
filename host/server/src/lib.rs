//! HTTP API, events, viewer bridge, authentication, web page.
