//! The service: what runs in it, and in which order it starts.
//!
//! `GET /health` first (the host's `reachable` waits for it), then the control channel, then what a person needs: start
//! page, shim, display. A part that cannot start is said on stderr (init keeps it) and costs only itself; without the
//! health port the agent ends with 1 and init starts it again.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use airlock_protocol::boot_config::BootConfig;
use airlock_protocol::guest_config::GuestConfig;
use airlock_protocol::message::{GuestMessage, HostMessage, VERSION};
use airlock_protocol::paths::{
    CONTROL_PORT_NAME, GUEST_CONFIG, GUEST_INIT_SOCKET, GUEST_OPEN_SOCKET, GUEST_TIMELINE, HEALTH_PORT, START_PAGE_PORT,
};
use airlock_protocol::{Sensitive, Stage};

use crate::addresses::addresses;
use crate::browser::Browser;
use crate::control::Control;
use crate::facts::{Facts, processes};
use crate::login::Logins;
use crate::login::tool::Environment;
use crate::outbox::Outbox;
use crate::owner;
use crate::reach::Probes;
use crate::screen_due::{ScreenDue, Seen};
use crate::screen_password::ScreenPassword;
use crate::timeline::Timeline;
use crate::{BUILD_ID, clock, display, health, port, spawn, start_page, vsock};

/// Longest URL that the shim may hand over, in bytes.
const MAX_URL: u64 = 16 * 1024;

/// How long the driver may take to show the port of the control channel: it asks the host for its name.
const PORT_WITHIN: Duration = Duration::from_secs(10);

/// Runs the service until the machine ends.
pub fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("airlock-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<std::convert::Infallible> {
    let outbox = Arc::new(Outbox::new()?);
    let timeline = Arc::new(Timeline::open(Path::new(GUEST_TIMELINE), Path::new("/dev/console"), outbox.clone()));
    let vm_id = vm_id();
    let listener = health::listen(HEALTH_PORT).inspect_err(|error| {
        let errno = error.raw_os_error().map(|raw| format!("{:?}", nix::errno::Errno::from_raw(raw)));
        timeline.failed(Stage::AgentUp, errno, &format!("listen on port {HEALTH_PORT}"));
    })?;
    {
        let (vm_id, timeline) = (vm_id.clone(), timeline.clone());
        spawn("health", move || health::serve(&listener, vm_id, timeline))?;
    }
    timeline.reached(Stage::AgentUp, &[("port", HEALTH_PORT.into()), ("build", BUILD_ID.into())]);

    let config = guest_config();
    let (owner, on_conflict) =
        config.as_ref().map(|config| (config.network_owner, config.on_address_conflict)).unwrap_or_default();
    if let Some(boot) = boot_config() {
        let timeline = timeline.clone();
        spawn("owner", move || {
            let _ = owner::watch(&boot, owner, on_conflict, &timeline).map_err(say("watch the interface"));
        })?;
    }
    let display = config.and_then(|config| config.display);
    let environment = Environment::guest(display.as_ref().map(|display| display.number));
    let page = display.as_ref().and_then(|_| start_page::start(START_PAGE_PORT).map_err(say("start page")).ok());
    let browser = Arc::new(Browser::new(page, display.clone(), environment.clone()));
    let logins = Arc::new(Logins::new(environment, browser.clone(), outbox.clone()));
    let screen = display.as_ref().map(|display| ScreenPassword::of_guest(&display.user));
    let seen = Seen::default();
    let due = display.as_ref().and_then(|_| {
        let due = ScreenDue::start(timeline.clone(), Path::new(processes::LOGS), seen.clone());
        due.map_err(say("wait for the screen")).ok()
    });
    let agent = Agent::new(vm_id, timeline.clone(), outbox, logins.clone(), browser).with_screen(screen, due);

    let _ = take_urls(Path::new(GUEST_OPEN_SOCKET), logins).map_err(say("socket of the browser shim"));
    if let Some(display) = display {
        spawn("display", move || display::watch(&display, &timeline, &seen))?;
    }
    agent.serve()
}

/// Says on stderr what could not be started.
fn say(what: &'static str) -> impl FnOnce(io::Error) {
    move |error| eprintln!("airlock-agent: {what}: {error}")
}

/// The VM id of the kernel command line; empty if there is none.
fn vm_id() -> String {
    boot_config().map(|boot| boot.vm_id).unwrap_or_default()
}

fn boot_config() -> Option<BootConfig> {
    BootConfig::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default()).ok()
}

fn guest_config() -> Option<GuestConfig> {
    let text = fs::read(GUEST_CONFIG).map_err(say(GUEST_CONFIG)).ok()?;
    serde_json::from_slice(&text).map_err(|error| say(GUEST_CONFIG)(error.into())).ok()
}

/// Takes URLs from the shim, which runs as the login's user.
pub fn take_urls(path: &Path, logins: Arc<Logins>) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    spawn("open-socket", move || {
        for stream in listener.incoming().flatten() {
            if let Some(url) = read_url(stream) {
                logins.url_from_shim(url);
            }
        }
    })
}

fn read_url(stream: UnixStream) -> Option<Sensitive> {
    // The shim writes at once; a client that does not is not waited for.
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let mut text = String::new();
    stream.take(MAX_URL).read_to_string(&mut text).ok()?;
    let url = text.trim();
    let is_url = (url.starts_with("http://") || url.starts_with("https://")) && !url.contains(char::is_whitespace);
    is_url.then(|| Sensitive::new(url))
}

/// What the host talks to.
#[derive(Debug)]
pub struct Agent {
    vm_id: String,
    timeline: Arc<Timeline>,
    outbox: Arc<Outbox>,
    logins: Arc<Logins>,
    browser: Arc<Browser>,
    probes: Probes,
    facts: Facts,
    /// None without a display.
    screen: Option<ScreenPassword>,
    due: Option<Arc<ScreenDue>>,
}

impl Agent {
    /// The parts that messages are for.
    pub fn new(
        vm_id: String,
        timeline: Arc<Timeline>,
        outbox: Arc<Outbox>,
        logins: Arc<Logins>,
        browser: Arc<Browser>,
    ) -> Self {
        let (probes, facts) = (Probes::new(outbox.clone()), Facts::new(outbox.clone()));
        Self { vm_id, timeline, outbox, logins, browser, probes, facts, screen: None, due: None }
    }

    /// The same, with a display that somebody may look at.
    pub fn with_screen(self, screen: Option<ScreenPassword>, due: Option<Arc<ScreenDue>>) -> Self {
        Self { screen, due, ..self }
    }

    fn serve(self) -> io::Result<std::convert::Infallible> {
        if vsock::is_there(Path::new("/sys/bus/virtio/devices")) {
            let listener = vsock::listen_for_host()?;
            let _ = vsock::knock();
            let (outbox, agent) = (self.outbox.clone(), Arc::new(self));
            return Err(vsock::serve(&listener, &outbox, move |message| agent.take(message)));
        }
        let sys = Path::new("/sys/class/virtio-ports");
        let Some(node) = port::await_port(sys, Path::new("/dev"), CONTROL_PORT_NAME, PORT_WITHIN)? else {
            eprintln!("airlock-agent: there is no port {CONTROL_PORT_NAME}");
            // The health answer still serves; nothing else can ask anything of us.
            loop {
                std::thread::park();
            }
        };
        let control = Control::open(&node, self.outbox.clone())?;
        Err(control.run(|message| self.take(message)))
    }

    /// Does what the host says. Returns at once: whatever takes time has a thread of its own.
    pub fn take(&self, message: HostMessage) {
        match message {
            HostMessage::Hello { version: _, now_ms, vnc_password } => {
                if let Err(errno) = clock::follow_host(now_ms) {
                    eprintln!("airlock-agent: set the clock: {errno}");
                }
                // Before the answer: the host takes it for set then.
                if let (Some(screen), Some(password)) = (&self.screen, &vnc_password)
                    && let Err(error) = screen.set(password)
                {
                    eprintln!("airlock-agent: set the password of the screen: {error}");
                }
                self.outbox.host_came(|| std::iter::once(self.hello()).chain(self.logins.replay()).collect());
            }
            HostMessage::StartLogin(spec) => self.logins.start(*spec),
            HostMessage::OpenUrl { url } => self.browser.open_in_background(url, |_| {}),
            HostMessage::EnterCode { code } => self.logins.enter_code(code),
            HostMessage::CancelLogin => self.logins.cancel(),
            HostMessage::CredentialStored { login_id } => self.logins.credential_stored(&login_id),
            HostMessage::ScreenDue { within_ms } => {
                if let Some(due) = &self.due {
                    due.due(Duration::from_millis(within_ms));
                }
            }
            HostMessage::PowerOff => {
                if let Err(error) = power_off(Path::new(GUEST_INIT_SOCKET)) {
                    eprintln!("airlock-agent: tell init to power off: {error}");
                }
            }
            HostMessage::Reach { id, target, timeout_ms } => self.probes.start(id, target, timeout_ms),
            HostMessage::Facts { id, now_ms, egress, timeout_ms } => self.facts.start(id, now_ms, egress, timeout_ms),
            HostMessage::Ping { n } => self.outbox.push(GuestMessage::Pong { n }),
        }
    }

    fn hello(&self) -> GuestMessage {
        GuestMessage::Hello {
            version: VERSION,
            build_id: BUILD_ID.to_owned(),
            vm_id: self.vm_id.clone(),
            addresses: addresses(),
            timeline: self.timeline.reports(),
        }
    }
}

fn power_off(init: &Path) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to(b"poweroff", init).map(drop)
}
