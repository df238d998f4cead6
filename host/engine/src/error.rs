//! What the engine refuses or fails at, in the terms of the API: kind, code, remedy.

use airlock_domain::admission::Shortage;
use airlock_domain::credential_lease::LeaseRefusal;
use airlock_domain::{Cause, SessionId, VmId};
use airlock_effects::network::NetworkError;
use airlock_effects::vmm::DriverError;
use airlock_image::ImageError;
use airlock_image::manifest::VSOCK_MODULE;
use airlock_protocol::Stage;

use crate::engine_login::LoginError;
use crate::evidence::EvidenceError;
use crate::reconcile::ReconcileError;
use crate::store::StoreError;
use crate::vault::VaultError;

/// How an error is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong.
    BadInput,
    /// It names what does not exist.
    NotFound,
    /// It is right, but not with this state.
    Refused,
    /// It is right, but there is no room for it now.
    Busy,
    /// Something this host needs is not there.
    Unavailable,
    /// A fault of ours or of the machine.
    Internal,
}

/// Why the engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A user id that cannot be one.
    #[error("user id {user_id:?} is not 1 to 128 letters, digits or one of . _ @ + -")]
    BadUserId {
        /// The id that was given, cut.
        user_id: String,
    },
    /// An idempotency key that cannot be one.
    #[error("the idempotency key is not 1 to 200 printable characters")]
    BadIdempotencyKey,
    /// The key was used for a start of another provider.
    #[error("the idempotency key stands for a start of provider {provider:?}")]
    IdempotencyKeyTaken {
        /// Which.
        provider: String,
    },
    /// Something about a login that runs.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// No such provider.
    #[error("there is no provider {provider:?}; known: {known}")]
    UnknownProvider {
        /// The id that was given, cut.
        provider: String,
        /// What there is.
        known: String,
    },
    /// No such session.
    #[error("there is no session {0}")]
    NoSession(SessionId),
    /// No such VM.
    #[error("there is no VM {0}")]
    NoVm(VmId),
    /// The console of a VM is gone with it.
    #[error("the console of VM {0} was removed with it")]
    NoConsole(VmId),
    /// No such credential.
    #[error("user {user_id} has no credential of {provider}")]
    NoCredential {
        /// Whose.
        user_id: String,
        /// Of which provider.
        provider: String,
    },
    /// A lease's holder has no name.
    #[error("the holder is not 1 to 128 printable characters")]
    BadHolder,
    /// A lease that is too long, or none.
    #[error("a lease lasts 1 to 3600 seconds")]
    BadLeaseTime,
    /// Somebody else may refresh the credential.
    #[error("refused: {0}")]
    Lease(LeaseRefusal),
    /// The credential is another one by now.
    #[error("the credential has version {present} now")]
    CredentialChanged {
        /// Its present version.
        present: i64,
    },
    /// What is to be written back has other files.
    #[error("the credential has the files {files}, each once and in this order")]
    OtherFiles {
        /// The files it has.
        files: String,
    },
    /// There is no receipt of a session's machine.
    #[error("session {id} is {state} and its machine has no receipt")]
    NoReceipt {
        /// Which session.
        id: SessionId,
        /// Where it stands.
        state: airlock_domain::session::SessionState,
    },
    /// No such token.
    #[error("there is no live token {id}")]
    NoToken {
        /// Its id.
        id: String,
    },
    /// The session has ended.
    #[error("session {id} is {state}")]
    SessionEnded {
        /// Which session.
        id: SessionId,
        /// Its terminal state.
        state: airlock_domain::session::SessionState,
    },
    /// The image is not there or not usable.
    #[error("use image {image}")]
    Image {
        /// Its name.
        image: String,
        /// Why not.
        #[source]
        source: Box<ImageError>,
    },
    /// Its guests would have no control channel under the driver that was chosen.
    #[error("image {image} has no vsock, which is the only control channel of a guest of Firecracker")]
    NoVsock {
        /// Its name.
        image: String,
    },
    /// No VMM can be used.
    #[error("choose a VMM driver")]
    Driver(#[source] DriverError),
    /// The private network failed.
    #[error("use the private network")]
    Network(#[source] NetworkError),
    /// The store failed.
    #[error("use the store")]
    Store(#[from] StoreError),
    /// The vault failed.
    #[error("use the vault")]
    Vault(#[from] VaultError),
    /// Something about evidence.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// No randomness.
    #[error("draw random bytes")]
    Random(#[source] getrandom::Error),
    /// There is no room for another VM now.
    #[error("no room for another sign-in: {0}")]
    NoRoom(Shortage),
    /// The guest does not answer on its control channel.
    #[error("the guest of VM {id} does not answer")]
    GuestSilent {
        /// Which VM.
        id: VmId,
        /// The last stage it reached.
        stage: Option<Stage>,
    },
    /// What is there cannot be compared with what is recorded.
    #[error("reconcile")]
    Reconcile(#[from] ReconcileError),
    /// An image cannot be built, or its builds cannot be read.
    #[error("build {name}")]
    Build {
        /// Of what.
        name: String,
        /// Why not.
        #[source]
        source: Box<ImageError>,
    },
    /// No such build.
    #[error("there is no build {id}")]
    NoBuild {
        /// Its id, cut.
        id: String,
    },
    /// The build is another process's.
    #[error("build {id} runs in process {pid}, not in this daemon")]
    BuildElsewhere {
        /// Its id.
        id: String,
        /// Whose it is.
        pid: u32,
    },
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl Error {
    /// How it is answered.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadUserId { .. } | Self::BadIdempotencyKey | Self::UnknownProvider { .. } => ErrorKind::BadInput,
            Self::BadHolder | Self::BadLeaseTime | Self::OtherFiles { .. } => ErrorKind::BadInput,
            Self::Lease(_) | Self::CredentialChanged { .. } => ErrorKind::Refused,
            Self::Vault(VaultError::NoKey { .. }) | Self::NoReceipt { .. } => ErrorKind::NotFound,
            Self::Vault(VaultError::Fixed { .. } | VaultError::Active { .. } | VaultError::InUse { .. }) => {
                ErrorKind::Refused
            }
            Self::NoSession(_)
            | Self::NoVm(_)
            | Self::NoConsole(_)
            | Self::NoCredential { .. }
            | Self::NoToken { .. } => ErrorKind::NotFound,
            Self::NoBuild { .. } => ErrorKind::NotFound,
            Self::Build { source, .. } if source.code().starts_with("recipe_") => ErrorKind::BadInput,
            Self::Build { source, .. } if matches!(**source, ImageError::BuildRunning { .. }) => ErrorKind::Refused,
            Self::Build { .. } => ErrorKind::Internal,
            Self::BuildElsewhere { .. } => ErrorKind::Refused,
            Self::SessionEnded { .. } | Self::IdempotencyKeyTaken { .. } => ErrorKind::Refused,
            Self::Login(error) => error.kind(),
            Self::Evidence(error) => error.kind(),
            Self::NoRoom(_) => ErrorKind::Busy,
            Self::GuestSilent { .. } => ErrorKind::Unavailable,
            Self::Image { .. } | Self::NoVsock { .. } => ErrorKind::Unavailable,
            Self::Driver(_) | Self::Network(_) | Self::ShuttingDown => ErrorKind::Unavailable,
            Self::Store(_) | Self::Vault(_) | Self::Random(_) | Self::Reconcile(_) => ErrorKind::Internal,
        }
    }

    /// The stable code of the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadUserId { .. } => "bad_user_id",
            Self::BadIdempotencyKey => "bad_idempotency_key",
            Self::IdempotencyKeyTaken { .. } => "idempotency_key_taken",
            Self::Login(error) => error.code(),
            Self::UnknownProvider { .. } => "unknown_provider",
            Self::NoSession(_) => "no_session",
            Self::NoVm(_) => "no_vm",
            Self::NoConsole(_) => "no_console",
            Self::NoCredential { .. } => "no_credential",
            Self::NoToken { .. } => "no_token",
            Self::SessionEnded { .. } => "session_ended",
            Self::Image { source, .. } if matches!(**source, ImageError::ImageUnverified { .. }) => source.code(),
            Self::Image { .. } => self.cause().map_or("image_unusable", Cause::code),
            Self::NoVsock { .. } => "image_lacks_vsock",
            Self::Driver(_) => self.cause().map_or("driver_unavailable", Cause::code),
            Self::Network(_) => self.cause().map_or("network_failed", Cause::code),
            Self::Store(_) => self.cause().map_or("store_failed", Cause::code),
            Self::Vault(VaultError::NoKey { .. }) => "no_vault_key",
            Self::Vault(VaultError::Fixed { .. }) => "vault_key_fixed",
            Self::Vault(VaultError::Active { .. }) => "vault_key_active",
            Self::Vault(VaultError::InUse { .. }) => "vault_key_in_use",
            Self::Vault(_) => "vault_failed",
            Self::BadHolder => "bad_holder",
            Self::BadLeaseTime => "bad_lease_time",
            Self::Lease(LeaseRefusal::Held { .. }) => "lease_held",
            Self::Lease(LeaseRefusal::StaleFence { .. }) => "stale_fence",
            Self::Lease(LeaseRefusal::Over { .. }) => "lease_over",
            Self::CredentialChanged { .. } => "credential_changed",
            Self::OtherFiles { .. } => "other_files",
            Self::NoReceipt { .. } => "no_receipt",
            Self::Random(_) => "no_randomness",
            Self::Evidence(error) => error.code(),
            Self::NoRoom(shortage) => shortage.code(),
            Self::GuestSilent { .. } => "guest_silent",
            Self::Reconcile(_) => "reconcile_failed",
            Self::Build { source, .. } => source.code(),
            Self::NoBuild { .. } => "no_build",
            Self::BuildElsewhere { .. } => "build_elsewhere",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// The catalogue's cause, if there is one.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Image { source, .. } => source.code().parse().ok(),
            Self::Driver(source) => source.cause().and_then(|code| code.parse().ok()),
            Self::Network(source) => source.cause().and_then(|code| code.parse().ok()),
            Self::NoRoom(shortage) => shortage.code().parse().ok(),
            Self::Store(error) if error.is_disk_full() => Some(Cause::DiskFull),
            _ => None,
        }
    }

    /// The stage that could not be reached, for errors of a start.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Self::Image { .. } => Some(Stage::DiskReady),
            Self::Driver(_) | Self::NoVsock { .. } => Some(Stage::VmmStarted),
            Self::Network(_) => Some(Stage::TapUp),
            Self::NoRoom(_) => Some(Stage::Leased),
            Self::GuestSilent { stage, .. } => *stage,
            _ => None,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> Option<String> {
        if let Self::NoRoom(shortage) = self {
            return Some(shortage.remedy().to_owned());
        }
        if let Some(cause) = self.cause() {
            return Some(cause.remedy().to_owned());
        }
        if let Self::Image { source, .. } | Self::Build { source, .. } = self {
            return Some(source.remedy());
        }
        if let Self::NoVsock { image } = self {
            return Some(format!(
                "add {VSOCK_MODULE} to modules in its recipe and build it again (airlock image build {image}), or set driver to a \
                 qemu one"
            ));
        }
        let text = match self {
            Self::BadUserId { .. } => "give the id by which you know the user, e.g. u1 or ann@example.org",
            Self::BadIdempotencyKey => "send a UUID as Idempotency-Key, or none",
            Self::IdempotencyKeyTaken { .. } => "send another key: one key is for one start",
            Self::Login(error) => error.remedy(),
            Self::UnknownProvider { .. } => "see GET /api/providers",
            Self::NoSession(_) => "see airlock session ls",
            Self::NoVm(_) => "see airlock vm ls",
            Self::NoConsole(_) => "the console is kept when a VM fails; watch a live one with airlock vm console -f",
            Self::NoCredential { .. } => "see airlock credentials ls",
            Self::NoToken { .. } => "see airlock token ls",
            Self::SessionEnded { .. } => "start another session",
            Self::GuestSilent { .. } => "see airlock vm timeline and airlock vm console: its agent is not up, or gone",
            Self::Evidence(error) => error.remedy(),
            Self::NoBuild { .. } => "see airlock image builds",
            Self::BuildElsewhere { .. } => "end it where it was started: Ctrl-C, or kill -INT of the process",
            Self::ShuttingDown => "try again when the daemon is back",
            Self::Vault(VaultError::NoKey { .. }) => "see airlock vault status",
            Self::Vault(VaultError::Fixed { .. }) => {
                "give the new key as vault.key and the former one in vault.older, and restart the daemon: it goes on by itself"
            }
            Self::Vault(VaultError::Active { .. }) => "make another key the one that seals: airlock vault rotate",
            Self::Vault(VaultError::InUse { .. }) => {
                "finish the rotation first: airlock vault rotate, airlock vault status"
            }
            Self::Vault(VaultError::OtherKey { .. }) => "put the missing key into vault.older, or sign in again",
            Self::BadHolder => "name who refreshes, e.g. refresher-1",
            Self::BadLeaseTime => "ask for less and renew it",
            Self::Lease(LeaseRefusal::Held { .. }) => "wait until it is released or over",
            Self::Lease(_) => "ask for the lease again, and read the credential again before you refresh it",
            Self::CredentialChanged { .. } => "read it again: it was signed in or written back meanwhile",
            Self::OtherFiles { .. } => "send every file of the credential with its new contents",
            Self::NoReceipt { .. } => {
                "it is written when nothing of the machine is left; a session that only waited had none"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// The chain of an error as one line, from what was being done down to the errno.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
