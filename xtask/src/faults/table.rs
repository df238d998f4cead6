//! The faults, by what is broken.

mod cmdline;
mod daemon;
mod display;
mod egress;
mod guest;
mod host;
mod image;
mod live;
mod units;

use super::fault::Fault;

/// Every fault, in the order in which they are produced.
pub fn all() -> Vec<Fault> {
    [
        image::faults(),
        cmdline::faults(),
        host::faults(),
        guest::faults(),
        live::faults(),
        egress::faults(),
        daemon::faults(),
        units::faults(),
        display::faults(),
    ]
    .concat()
}
