//! Why a command failed: the API's error body, the chain beneath it, and the exit code.
//!
//! Exit codes: 1 failed, 2 usage, 3 not found, 4 refused.

use airlock_api::ErrorDetail;
use airlock_engine::OpenError;
use airlock_image::ImageError;
use airlock_server::ServeError;

/// Result of a subcommand.
pub type Outcome<T = std::process::ExitCode> = Result<T, Box<Failure>>;

/// One failed command.
#[derive(Debug)]
pub struct Failure {
    /// Exit code of the process.
    pub exit: u8,
    /// What is printed.
    pub detail: ErrorDetail,
    /// Causes beneath the message, outermost first.
    pub chain: Vec<String>,
}

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const NOT_FOUND: u8 = 3;
pub const REFUSED: u8 = 4;

impl Failure {
    /// A failure of our own.
    pub fn new(exit: u8, code: &str, message: impl Into<String>, remedy: impl Into<String>) -> Box<Self> {
        let remedy = remedy.into();
        let detail = ErrorDetail {
            code: code.to_owned(),
            message: message.into(),
            remedy: (!remedy.is_empty()).then_some(remedy),
            ..ErrorDetail::default()
        };
        Box::new(Self { exit, detail, chain: Vec::new() })
    }

    /// Adds an error and everything beneath it to the chain.
    #[must_use]
    pub fn because(mut self: Box<Self>, error: &dyn std::error::Error) -> Box<Self> {
        self.chain.push(error.to_string());
        self.beneath(error)
    }

    /// Adds everything beneath an error whose own text is the message.
    #[must_use]
    pub fn beneath(mut self: Box<Self>, error: &dyn std::error::Error) -> Box<Self> {
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if self.chain.last() != Some(&text) {
                self.chain.push(text);
            }
            source = cause.source();
        }
        self
    }

    /// An answer of the daemon that is not a success.
    pub fn answered(status: u16, detail: ErrorDetail) -> Box<Self> {
        let exit = match status {
            400 | 405 | 413 | 415 | 422 => USAGE,
            404 => NOT_FOUND,
            401 | 403 | 409 | 429 => REFUSED,
            _ => FAILED,
        };
        Box::new(Self { exit, detail, chain: Vec::new() })
    }
}

impl From<ImageError> for Box<Failure> {
    fn from(error: ImageError) -> Self {
        let exit = match error.code() {
            "image_missing" => NOT_FOUND,
            "build_running" | "image_in_use" => REFUSED,
            code if code.starts_with("recipe_") => USAGE,
            _ => FAILED,
        };
        let mut failure = Failure::new(exit, error.code(), error.to_string(), error.remedy()).beneath(&error);
        if let ImageError::Preflight { problems, .. } = &error {
            failure.detail.cause = error.cause().map(|cause| cause.code().to_owned());
            failure.detail.stage = problems.first().map(|problem| problem.stage);
            // All of them at once: one correction a build would be the old way.
            failure.chain.extend(problems.iter().map(ToString::to_string));
        }
        if let ImageError::BootTestFailed { failure: booted, .. } = &error {
            failure.detail.cause = Some(booted.cause.code().to_owned());
            failure.detail.stage = booted.stage;
            failure.detail.evidence_id.clone_from(&booted.evidence_id);
        }
        failure
    }
}

impl From<ServeError> for Box<Failure> {
    fn from(error: ServeError) -> Self {
        Failure::new(FAILED, error.code(), error.to_string(), error.remedy()).beneath(&error)
    }
}

impl From<OpenError> for Box<Failure> {
    fn from(error: OpenError) -> Self {
        use airlock_effects::files::FileError;
        let cause = |code: Option<&str>| code.and_then(|code| code.parse::<airlock_domain::Cause>().ok());
        let (exit, code, remedy) = match &error {
            OpenError::Config(_) => {
                (USAGE, "config_invalid", "correct the field; airlock serve --check-config checks a file".to_owned())
            }
            OpenError::StateDir(FileError::InUse { pid, .. }) => {
                let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                (
                    REFUSED,
                    "state_dir_in_use",
                    format!("stop the other daemon{pid}, or give this one its own --state-dir"),
                )
            }
            OpenError::StateDir(source) => (
                FAILED,
                source.cause().unwrap_or("state_dir_unusable"),
                "run as root, or give a --state-dir that can be written".to_owned(),
            ),
            OpenError::Store(_) => {
                (FAILED, "store_failed", "see the cause; free space, or restore the database from a backup".to_owned())
            }
            OpenError::Vault(_) => (
                FAILED,
                "vault_failed",
                "see the cause; vault.key must be the daemon's, readable for it alone".to_owned(),
            ),
            OpenError::Reconcile(_) => (
                FAILED,
                "reconcile_failed",
                "see the cause; airlock doctor says what is missing on this host".to_owned(),
            ),
            OpenError::Images(source) => (FAILED, source.code(), source.remedy()),
            OpenError::Providers(_) => (
                FAILED,
                "provider_invalid",
                "correct the provider's file; airlock provider check FILE checks one".to_owned(),
            ),
            OpenError::Network(source) => {
                let known = source.remedy().or_else(|| cause(source.cause()).map(airlock_domain::Cause::remedy));
                let remedy = known.unwrap_or("run as root; airlock doctor says what is missing");
                (FAILED, source.cause().unwrap_or("network_failed"), remedy.to_owned())
            }
        };
        Failure::new(exit, code, error.to_string(), remedy).beneath(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::Stage;

    #[test]
    fn answers_map_to_exit_codes() {
        for (status, exit) in [
            (400, USAGE),
            (422, USAGE),
            (404, NOT_FOUND),
            (401, REFUSED),
            (403, REFUSED),
            (409, REFUSED),
            (500, FAILED),
            (503, FAILED),
        ] {
            assert_eq!(Failure::answered(status, ErrorDetail::default()).exit, exit, "{status}");
        }
    }

    #[test]
    fn everything_wrong_with_an_image_is_told_at_once() {
        use airlock_image::preflight::Problem;
        let problem =
            |code, stage, what: &str| Problem { code, stage, refuses: true, what: what.into(), remedy: "do it".into() };
        let problems = vec![
            problem("no_console_output", Stage::KernelStarted, "vmlinuz is cut"),
            problem("service_program_missing", Stage::Ready, "app is gone"),
        ];
        let failure: Box<Failure> = ImageError::Preflight { image: "base".into(), problems }.into();
        let detail = &failure.detail;
        assert_eq!(
            (failure.exit, detail.code.as_str(), detail.stage),
            (FAILED, "no_console_output", Some(Stage::KernelStarted))
        );
        assert_eq!(detail.cause.as_deref(), Some("no_console_output"));
        assert_eq!(
            failure.chain,
            ["no_console_output: vmlinuz is cut (do it)", "service_program_missing: app is gone (do it)"]
        );
    }

    #[test]
    fn the_chain_goes_down_to_the_last_cause() {
        let error = airlock_domain::config::Config::parse("boot_deadline_s = \"x\"").unwrap_err();
        let failure: Box<Failure> = OpenError::from(error).into();
        assert_eq!((failure.exit, failure.detail.code.as_str()), (USAGE, "config_invalid"));
        assert_eq!(failure.chain.len(), 2, "{:?}", failure.chain);
        assert!(failure.chain[1].contains("boot_deadline_s"));
    }
}
