//! The airlock binary: daemon, client and local tools.

fn main() {}
