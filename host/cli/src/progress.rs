//! Live progress: lines that stay, and on a terminal one line below them that says what is waited for.

use std::io::IsTerminal;
use std::time::Duration;

use airlock_api::session::StageView;
use airlock_protocol::Stage;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{line, printable};

/// Lines above, a spinner below (terminals only).
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts with `waiting` below.
    pub fn new(waiting: &str) -> Self {
        let bar = (std::io::stdout().is_terminal() && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(waiting.to_owned());
            bar
        });
        Self { bar }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// What is waited for from now on; the clock starts anew.
    pub fn waiting(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.reset_elapsed();
            bar.set_message(printable(what));
        }
    }

    /// A passing detail of what is waited for.
    pub fn detail(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(&what.chars().take(100).collect::<String>()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One stage as a line: time since the start was planned, name, detail.
pub fn stage_line(stage: &StageView) -> String {
    let mark = if stage.ok { " " } else { "!" };
    let mut text = format!("{:>9.1} ms {mark} {:<18}", stage.at_ms, stage.stage.name());
    for part in [&stage.errno, &stage.detail].into_iter().flatten() {
        text.push(' ');
        text.push_str(&printable(part));
    }
    text.trim_end().to_owned()
}

/// The stage after `stage`, as what is waited for.
pub fn next_stage(stage: Stage) -> String {
    let next = Stage::ALL.iter().find(|next| **next > stage);
    next.map_or_else(|| "the person".to_owned(), |next| format!("waiting for {next}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_one_line() {
        let mut stage = StageView { stage: Stage::TapUp, ok: true, at_ms: 12.34, errno: None, detail: None };
        assert_eq!(stage_line(&stage), "     12.3 ms   tap_up");
        stage = StageView { ok: false, errno: Some("EBUSY".into()), detail: Some("attach\x1b[0m".into()), ..stage };
        assert_eq!(stage_line(&stage), "     12.3 ms ! tap_up             EBUSY attach[0m");
        assert_eq!(next_stage(Stage::Planned), "waiting for leased");
    }
}
