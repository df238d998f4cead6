//! First process of the guest, as parts that can be tested without being PID 1.
//!
//! * [`boot`]: the boot order, readable top to bottom; decides what follows a failed step
//! * [`kernel`]: the seam to the kernel and its errors; [`linux`] is the real one, a recording fake stands beside the tests
//! * [`net`]: rtnetlink and ARP
//! * [`root`] and [`identity`]: root filesystem, overlay, switch of root; what makes this VM itself
//! * [`handover`]: who becomes PID 1 and what is written for it (pure); [`succession`]: doing so
//! * [`run_dir`]: keeps our directory visible below an image's own /run
//! * [`plan`]: which service is to be started when (pure); [`supervise`]: the loop of PID 1; [`spawn`]: one child
//! * [`report`]: stage lines on the console and in the timeline file
//!
//! A failed step is reported with its errno and never ends the process.

pub mod boot;
pub mod handover;
pub mod identity;
pub mod kernel;
pub mod linux;
pub mod net;
pub mod orders;
pub mod plan;
pub mod report;
pub mod root;
pub mod run_dir;
pub mod socket_wait;
pub mod spawn;
pub mod succession;
pub mod supervise;

#[cfg(test)]
mod fake;
