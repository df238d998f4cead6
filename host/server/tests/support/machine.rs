//! A machine that is played: the real daemon over the real engine, with a process that does nothing in place of the VMM; its agent and its
//! RFB server are the test's. The address of the lease is on the namespace's loopback, so everything is real TCP inside it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use airlock_domain::SessionId;
use airlock_domain::config::{Config, DriverChoice};
use airlock_effects::vmm::Drivers;
use airlock_effects::vmm::fake::FakeDriver;
use airlock_engine::records::{SessionEvent, SessionRecord};
use airlock_engine::{Engine, StartSession};
use airlock_protocol::frame::{Decoder, encode};
use airlock_protocol::message::{GuestMessage, HostMessage, VERSION};
use airlock_protocol::paths::RFB_PORT;
use airlock_protocol::vnc_auth::{self, CHALLENGE_BYTES, SECURITY_NONE, SECURITY_VNC_AUTH};
use airlock_protocol::{Sensitive, Stage, StageReport};
use airlock_server::Ending;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::websocket::{self, Refused, Socket};

const WITHIN: Duration = Duration::from_secs(30);

/// A daemon with its namespace and its state directory.
pub struct Daemon {
    pub engine: Engine,
    pub addr: SocketAddr,
    end: Option<oneshot::Sender<Ending>>,
    served: Option<JoinHandle<()>>,
    namespace: String,
    state: PathBuf,
}

/// One session and its machine.
pub struct Machine {
    pub session: SessionRecord,
    pub cookie: String,
    agent: Option<UnixStream>,
    /// Where its RFB server listens.
    pub screen: TcpListener,
}

/// What a configuration must be for machines that nobody boots.
pub fn config(namespace: &str, state: &Path) -> Config {
    let mut config = Config {
        state_dir: state.to_owned(),
        driver: DriverChoice::QemuTcg,
        boot_deadline_s: 3600,
        session_deadline_s: 3600,
        session_max_s: 7200,
        ..Config::default()
    };
    config.limits.sessions_per_user = 0;
    config.limits.reserve_mib = 0;
    config.network.namespace = namespace.to_owned();
    config
}

impl Daemon {
    /// Serves with `config`, whose image is published already.
    pub async fn serve(config: Config) -> Self {
        let (namespace, state) = (config.network.namespace.clone(), config.state_dir.clone());
        let engine = Engine::open_with(config, Drivers::only(Arc::new(FakeDriver::new()))).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (end, asked) = oneshot::channel();
        let serving = engine.clone();
        let served = tokio::spawn(async move {
            let shutdown = async { asked.await.unwrap_or(Ending::EndVms) };
            airlock_server::serve(serving, listener, shutdown).await.unwrap();
        });
        Self { engine, addr, end: Some(end), served: Some(served), namespace, state }
    }

    /// A session whose machine runs; its agent and its display are not there yet.
    pub async fn start(&self, user: &str) -> Machine {
        let request = StartSession { user_id: user.to_owned(), provider: "shell".into(), idempotency_key: None };
        let session = self.engine.start_session(request).await.unwrap();
        self.reached(session.id, Stage::VmmStarted).await;
        let session = self.engine.session(session.id).await.unwrap();
        let address = session.address.unwrap();
        self.ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        let screen = self.engine.network().listen((address, RFB_PORT).into()).await.unwrap();
        let (ticket, _) = self.engine.issue_ticket(session.id, "test").await.unwrap();
        let cookie = self.engine.redeem_ticket(session.id, &ticket).await.unwrap().unwrap();
        Machine { session, cookie: format!("airlock_viewer={cookie}"), agent: None, screen }
    }

    /// One whose RFB server asks for the password that the agent was told, with its display up.
    pub async fn start_shown(&self, user: &str) -> (Machine, Sensitive) {
        let mut machine = self.start(user).await;
        let password = machine.agent_answers(self).await;
        machine.display_up().await;
        self.reached(machine.session.id, Stage::DisplayUp).await;
        (machine, password)
    }

    /// Waits for a stage.
    pub async fn reached(&self, id: SessionId, stage: Stage) {
        let mut watch = self.engine.watch(id).await.unwrap();
        if watch.timeline.iter().any(|entry| entry.stage == stage) {
            return;
        }
        let seen = async {
            loop {
                match watch.events.recv().await.unwrap() {
                    SessionEvent::Stage(entry) if entry.stage == stage => return,
                    SessionEvent::State(record) if record.state.is_terminal() => panic!("{record:?}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(WITHIN, seen).await.unwrap();
    }

    /// Opens a machine's screen with a cookie, from a page of ours.
    pub async fn look(&self, machine: &Machine) -> Result<Socket, Refused> {
        self.look_from(machine, &machine.cookie, &format!("http://{}", self.addr)).await
    }

    pub async fn look_from(&self, machine: &Machine, cookie: &str, origin: &str) -> Result<Socket, Refused> {
        let path = format!("/api/auth/session/{}/vnc", machine.session.id);
        let headers = [("cookie", cookie), ("origin", origin), ("sec-websocket-protocol", "binary")];
        websocket::connect(self.addr, &path, &headers).await.unwrap()
    }

    /// Ends the daemon and waits until it has.
    pub async fn end(&mut self, ending: Ending) {
        if let (Some(end), Some(served)) = (self.end.take(), self.served.take()) {
            let _ = end.send(ending);
            served.await.unwrap();
        }
    }

    fn ip(&self, args: &[&str]) {
        let done = Command::new("ip").args(["-n", &self.namespace]).args(args).status().unwrap();
        assert!(done.success(), "ip {args:?}");
    }

    fn vm_dir(&self, machine: &Machine) -> PathBuf {
        self.state.join("vms").join(machine.session.vm_id.dir_name())
    }
}

impl Machine {
    pub fn addr(&self) -> SocketAddr {
        (self.session.address.unwrap_or(Ipv4Addr::UNSPECIFIED), RFB_PORT).into()
    }

    /// The agent comes up and answers the daemon's greeting; the password that it was told.
    pub async fn agent_answers(&mut self, daemon: &Daemon) -> Sensitive {
        let listener = UnixListener::bind(daemon.vm_dir(self).join("agent.sock")).unwrap();
        let (mut stream, _) = tokio::time::timeout(WITHIN, listener.accept()).await.unwrap().unwrap();
        let mut decoder = Decoder::new();
        let password = loop {
            if let Some(HostMessage::Hello { vnc_password, .. }) = decoder.next_message() {
                break vnc_password.unwrap();
            }
            let mut bytes = [0; 512];
            let count = stream.read(&mut bytes).await.unwrap();
            decoder.push(&bytes[..count]);
        };
        let hello = GuestMessage::Hello {
            version: VERSION,
            build_id: "0".into(),
            vm_id: self.session.vm_id.to_string(),
            addresses: Vec::new(),
            timeline: Vec::new(),
        };
        stream.write_all(&encode(&hello).unwrap()).await.unwrap();
        self.agent = Some(stream);
        password
    }

    pub async fn display_up(&mut self) {
        let report = GuestMessage::Stage(StageReport::reached(9, 1_000_000, Stage::DisplayUp));
        self.agent.as_mut().unwrap().write_all(&encode(&report).unwrap()).await.unwrap();
    }

    /// The next connection to its RFB server, let in if it knows the password.
    pub async fn let_in(&self, password: &Sensitive) -> io::Result<TcpStream> {
        let (mut stream, _) = tokio::time::timeout(WITHIN, self.screen.accept()).await??;
        stream.set_nodelay(true)?;
        offer(&mut stream, SECURITY_VNC_AUTH).await?;
        let challenge = *b"0123456789abcdef";
        stream.write_all(&challenge).await?;
        let mut answer = [0; CHALLENGE_BYTES];
        stream.read_exact(&mut answer).await?;
        if answer == vnc_auth::answer(password, &challenge) {
            stream.write_all(&[0; 4]).await?;
            return Ok(stream);
        }
        stream.write_all(b"\0\0\0\x01\0\0\0\x02no").await?;
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// The next connection, let in without a password.
    pub async fn let_anybody_in(&self) -> io::Result<TcpStream> {
        let (mut stream, _) = tokio::time::timeout(WITHIN, self.screen.accept()).await??;
        stream.set_nodelay(true)?;
        offer(&mut stream, SECURITY_NONE).await?;
        stream.write_all(&[0; 4]).await?;
        Ok(stream)
    }
}

async fn offer(stream: &mut TcpStream, security: u8) -> io::Result<()> {
    stream.write_all(b"RFB 003.008\n").await?;
    stream.read_exact(&mut [0; 12]).await?;
    stream.write_all(&[1, security]).await?;
    stream.read_u8().await.map(drop)
}

/// The viewer's part of the handshake.
pub async fn greeted(socket: &mut Socket) -> io::Result<()> {
    let mut version = [0; 12];
    socket.reader.read_exact(&mut version).await?;
    assert_eq!(&version, b"RFB 003.008\n");
    socket.writer.send(&version).await?;
    let mut offered = [0; 2];
    socket.reader.read_exact(&mut offered).await?;
    assert_eq!(offered, [1, SECURITY_NONE], "the page needs no password");
    socket.writer.send(&[SECURITY_NONE]).await?;
    let mut result = [9; 4];
    socket.reader.read_exact(&mut result).await?;
    assert_eq!(result, [0; 4]);
    Ok(())
}
