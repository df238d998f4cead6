//! First process of the guest: network, root, supervision.

fn main() {}
