//! Project tasks: arrows between crates, benches, reports.

fn main() {}
