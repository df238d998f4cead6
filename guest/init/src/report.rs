//! Stage reports: numbered, stamped with the boot clock, and handed to the kernel seam for console and timeline.
//!
//! Nothing here can fail: a report that cannot be written is lost, and its number shows the gap.

use airlock_protocol::{Stage, StageReport};

use crate::kernel::{Kernel, KernelError, chain};

/// Counts the reports of this boot.
#[derive(Debug, Default)]
pub struct Reporter {
    seq: u32,
}

impl Reporter {
    /// Reports that `stage` was reached, with its facts.
    pub fn reached(&mut self, kernel: &mut impl Kernel, stage: Stage, facts: &[(&str, String)]) {
        self.seq += 1;
        let report = StageReport::reached(self.seq, kernel.now_us(), stage);
        kernel.emit(&facts.iter().fold(report, |report, (key, value)| report.with(key, value.as_str())));
    }

    /// Reports that `stage` failed because of `error`.
    pub fn failed(&mut self, kernel: &mut impl Kernel, stage: Stage, error: &KernelError) {
        match error.cause() {
            Some(cause) => self.failed_because(kernel, stage, cause, error),
            None => self.failed_with(kernel, stage, error.errno().map(|errno| format!("{errno:?}")), chain(error)),
        }
    }

    /// Reports that `stage` failed because of `error`, by its code in the fault catalogue.
    pub fn failed_because(&mut self, kernel: &mut impl Kernel, stage: Stage, cause: &str, error: &KernelError) {
        self.seq += 1;
        let errno = error.errno().map(|errno| format!("{errno:?}"));
        let report = StageReport::failed(self.seq, kernel.now_us(), stage, errno, chain(error));
        kernel.emit(&report.with("cause", cause));
    }

    /// Reports that `stage` failed because of what was asked for, by its code in the fault catalogue.
    pub fn refused(&mut self, kernel: &mut impl Kernel, stage: Stage, cause: &str, detail: String) {
        self.seq += 1;
        let report = StageReport::failed(self.seq, kernel.now_us(), stage, Some("EINVAL".to_owned()), detail);
        kernel.emit(&report.with("cause", cause));
    }

    /// Reports that `stage` failed, in words.
    pub fn failed_with(&mut self, kernel: &mut impl Kernel, stage: Stage, errno: Option<String>, detail: String) {
        self.seq += 1;
        kernel.emit(&StageReport::failed(self.seq, kernel.now_us(), stage, errno, detail));
    }
}
