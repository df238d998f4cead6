//! The guest of the level of real processes: it talks over its control socket as the agent does, and outlives daemons.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use airlock_domain::{SessionId, VmId};
use airlock_engine::records::SessionRecord;
use airlock_protocol::frame::{Decoder, encode};
use airlock_protocol::message::{GuestMessage, HostMessage, LoginEvent, VERSION};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::outcome::files_of;

/// How long something may take that comes soon.
pub const SOON: Duration = Duration::from_secs(30);

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// When the host connected.
    Connected,
    /// When the host wants the login.
    Asked,
    /// When half of the frame with the files is on its way.
    HalfSent,
    /// So many microseconds after the whole of it is.
    Sent(u64),
    /// When the guest was told that its credential is safe, and so many microseconds later.
    Acknowledged(u64),
}

/// What a guest has to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// What its tool wrote.
    Files,
    /// A file that its provider does not name.
    OtherFiles,
    Nothing,
}

/// What the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Connected,
    Asked,
    HalfSent,
    Sent,
    Acknowledged,
}

/// The agent's part: it greets every host and sends what it has until it is told that it is safe. `dies` is where its first
/// connection ends; what it sends is `sends`.
struct Guest {
    session: SessionId,
    vm: VmId,
    sends: Sends,
    dies: Option<At>,
    seen: mpsc::UnboundedSender<Seen>,
    acknowledged: Arc<AtomicBool>,
}

impl Guest {
    async fn run(mut self, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            // A host that is gone shows as an error: the next one is waited for.
            let _ = self.serve(stream).await;
        }
    }

    async fn serve(&mut self, mut host: UnixStream) -> Result<()> {
        let _ = self.seen.send(Seen::Connected);
        if self.dies_at(At::Connected) {
            return Ok(());
        }
        let (mut decoder, mut bytes) = (Decoder::new(), vec![0; 65536]);
        loop {
            let count = host.read(&mut bytes).await?;
            ensure!(count > 0, "the host is gone");
            decoder.push(&bytes[..count]);
            while let Some(message) = decoder.next_message::<HostMessage>() {
                match message {
                    HostMessage::Hello { .. } => {
                        let (build_id, vm_id) = (String::new(), self.vm.to_string());
                        let hello = GuestMessage::Hello {
                            version: VERSION,
                            build_id,
                            vm_id,
                            addresses: vec![],
                            timeline: vec![],
                        };
                        host.write_all(&encode(&hello)?).await?;
                    }
                    HostMessage::StartLogin(_) => {
                        let _ = self.seen.send(Seen::Asked);
                        if self.dies_at(At::Asked) || self.sends != Sends::Nothing && self.send_files(&mut host).await?
                        {
                            return Ok(());
                        }
                    }
                    HostMessage::CredentialStored { login_id } => {
                        ensure!(login_id == self.session.to_string(), "another login's");
                        self.acknowledged.store(true, Ordering::SeqCst);
                        let _ = self.seen.send(Seen::Acknowledged);
                        if self.dies_at(At::Acknowledged(0)) {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether it died in the middle, or right behind it.
    async fn send_files(&mut self, host: &mut UnixStream) -> Result<bool> {
        let mut files = files_of(self.session);
        if self.sends == Sends::OtherFiles {
            files[0].path = ".ssh/authorized_keys".into();
        }
        let event = LoginEvent::Captured { files, confirmed: Some(true) };
        let frame = encode(&GuestMessage::Login { login_id: self.session.to_string(), attempt: 1, event })?;
        let (first, second) = frame.split_at(frame.len() / 2);
        host.write_all(first).await?;
        let _ = self.seen.send(Seen::HalfSent);
        if self.dies_at(At::HalfSent) {
            return Ok(true);
        }
        host.write_all(second).await?;
        let _ = self.seen.send(Seen::Sent);
        if let Some(At::Sent(us)) = self.dies {
            tokio::time::sleep(Duration::from_micros(us)).await;
            self.dies = None;
            return Ok(true);
        }
        Ok(false)
    }

    fn dies_at(&mut self, at: At) -> bool {
        let dies = self.dies == Some(at);
        if dies {
            self.dies = None;
        }
        dies
    }
}

/// A guest at its session's socket, what it sees, and whether it was told that its credential is safe.
pub struct Played {
    task: JoinHandle<()>,
    sees: mpsc::UnboundedReceiver<Seen>,
    pub acknowledged: Arc<AtomicBool>,
}

impl Played {
    /// Listens; its first connection ends where it `dies`.
    pub fn begin(vm_dir: &Path, session: &SessionRecord, sends: Sends, dies: Option<At>) -> Result<Self> {
        let listener = UnixListener::bind(vm_dir.join("agent.sock")).context("listen as the guest")?;
        let (seen, sees) = mpsc::unbounded_channel();
        let acknowledged = Arc::new(AtomicBool::new(false));
        let (session, vm) = (session.id, session.vm_id);
        let guest = Guest { session, vm, sends, dies, seen, acknowledged: acknowledged.clone() };
        Ok(Self { task: tokio::spawn(guest.run(listener)), sees, acknowledged })
    }

    /// Waits until it saw that.
    pub async fn until(&mut self, wanted: Seen) -> Result<()> {
        let seen = async { while self.sees.recv().await.is_some_and(|seen| seen != wanted) {} };
        tokio::time::timeout(SOON, seen).await.with_context(|| format!("{wanted:?} was never seen"))
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.task.abort();
    }
}
