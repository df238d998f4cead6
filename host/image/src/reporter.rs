//! Carries progress to the observer and every line to the build log, which is kept.
//!
//! A log that cannot be written does not fail a build: the observer has seen the line.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crate::cancel::Cancel;
use crate::error::ImageError;
use crate::progress::{BuildEvent, BuildStage};

/// Tells the observer and the log what happens.
pub(crate) struct Reporter<'a> {
    observe: &'a mut dyn FnMut(BuildEvent),
    log: Option<File>,
    stage: BuildStage,
    cancel: Cancel,
}

impl<'a> Reporter<'a> {
    /// A reporter without a log.
    pub(crate) fn new(observe: &'a mut dyn FnMut(BuildEvent), cancel: Cancel) -> Self {
        Self { observe, log: None, stage: BuildStage::Lock, cancel }
    }

    /// What ends the build from outside.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Starts a log at `path`, replacing an older one.
    pub(crate) fn log_to(&mut self, path: &Path) -> Result<(), ImageError> {
        self.log = Some(File::create(path).map_err(ImageError::io("create build log", path))?);
        Ok(())
    }

    /// Runs one stage; `work` says with its result whether that came from the cache.
    pub(crate) fn stage<T>(
        &mut self,
        stage: BuildStage,
        work: impl FnOnce(&mut Self) -> Result<(T, bool), ImageError>,
    ) -> Result<T, ImageError> {
        self.cancel.check()?;
        let begun = Instant::now();
        self.stage = stage;
        self.write_log(&format!("== {stage}"));
        (self.observe)(BuildEvent::Started { stage });
        let result = work(self);
        // A tool that was killed for it failed as well, but that is not why.
        let result = if result.is_err() && self.cancel.is_asked() { Err(ImageError::Cancelled) } else { result };
        if let Err(err) = &result {
            self.write_log(&format!("== {stage} failed: {err}"));
        }
        let (value, reused) = result?;
        let elapsed = begun.elapsed();
        self.write_log(&format!("== {stage} {} ms{}", elapsed.as_millis(), if reused { ", reused" } else { "" }));
        (self.observe)(BuildEvent::Finished { stage, elapsed, reused });
        Ok(value)
    }

    /// One line for the log and the observer.
    pub(crate) fn line(&mut self, line: &str) {
        self.write_log(line);
        (self.observe)(BuildEvent::Log { stage: self.stage, line: line.to_owned() });
    }

    fn write_log(&mut self, line: &str) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{line}");
        }
    }
}
