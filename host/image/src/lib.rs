//! Golden image builder and registry.
