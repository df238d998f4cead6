//! In-guest service: health, control channel, login, capture.

fn main() {}
