//! What a fault is: how it is produced, what Airlock must say, and how soon.

use airlock_protocol::Stage;
use anyhow::Result;

use super::cell::World;
use super::image::Image;
use super::site::Special;

/// One fault of the table.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Name on the command line.
    pub name: &'static str,
    /// How it is produced, for the table.
    pub how: String,
    /// The catalogue's code that must come out.
    pub cause: &'static str,
    /// The stage that must come out; none: the machine was ready, or nothing of it had begun.
    pub stage: Option<Stage>,
    /// From when the verdict's time counts.
    pub since: Since,
    /// The longest time to the verdict, in milliseconds.
    pub within_ms: u64,
    /// How it is made.
    pub way: Way,
    /// Whether it is among the few that every change is tested with.
    pub quick: bool,
}

/// From when the time to the verdict counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The start was asked for: for what is refused, and for what is only ever silent (the boot's deadline names it).
    Asked,
    /// The action was done.
    Acted,
    /// This text was on the console.
    Sign(&'static str),
    /// The VMM was gone.
    Exit,
}

/// How a fault is made.
#[derive(Debug, Clone)]
pub enum Way {
    /// One machine is started, and what must come out is its session's error, or the answer to the question for a diagnosis.
    Machine(Machine),
    /// Anything else.
    Own(fn(&World) -> Result<Said>),
}

/// A machine that something is wrong with.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// The golden image it is started from; `base` if empty.
    pub image: &'static str,
    /// What is changed about the image.
    pub change: Option<fn(&mut Image) -> Result<()>>,
    /// Bash, run in the place of the VMM before it starts.
    pub before_vmm: String,
    /// A daemon of its own.
    pub daemon: Option<Special>,
    /// What is done to it while it runs.
    pub act: Option<Act>,
    /// Whether it is asked for its diagnosis after that; otherwise it has to fail by itself.
    pub asked: bool,
}

/// Something done to a machine that runs.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    /// When this stage is reached.
    pub once: Stage,
    /// Where.
    pub place: Place,
    /// A shell script. On the host with `$TAP`, `$PID`, `$ADDRESS`, `$VM` and `$NETNS`.
    pub script: &'static str,
    /// What takes it back, for what is not the machine's alone.
    pub undo: &'static str,
}

/// Where something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the daemon's network namespace.
    Host,
    /// In the guest.
    Guest,
}

/// What Airlock said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The cause.
    pub cause: String,
    /// The stage.
    pub stage: Option<Stage>,
    /// In words.
    pub detail: String,
    /// Time to the verdict in milliseconds.
    pub ms: u64,
}

/// A fault of a machine that is refused or fails on its own.
pub fn fault(name: &'static str, cause: &'static str, stage: Stage) -> Fault {
    Fault {
        name,
        how: String::new(),
        cause,
        stage: Some(stage),
        since: Since::Sign("\"ok\":false"),
        within_ms: 2000,
        way: Way::Machine(Machine::default()),
        quick: false,
    }
}

/// A fault of a machine that was ready.
pub fn live(name: &'static str, cause: &'static str) -> Fault {
    let shell: fn(&mut Image) -> Result<()> = Image::with_shell;
    let fault = Fault { stage: None, since: Since::Acted, within_ms: 5000, ..fault(name, cause, Stage::Ready) };
    fault.image(shell).machine(|machine| machine.asked = true)
}

impl Fault {
    /// How it is produced, in words.
    pub fn how(mut self, how: impl Into<String>) -> Self {
        self.how = how.into();
        self
    }

    /// From when the time counts, and how long it may be.
    pub fn shows(mut self, since: Since, within_ms: u64) -> Self {
        (self.since, self.within_ms) = (since, within_ms);
        self
    }

    /// It is among the few.
    pub fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    /// Made in a way of its own.
    pub fn own(mut self, make: fn(&World) -> Result<Said>) -> Self {
        self.way = Way::Own(make);
        self
    }

    fn machine(mut self, change: impl FnOnce(&mut Machine)) -> Self {
        if let Way::Machine(machine) = &mut self.way {
            change(machine);
        }
        self
    }

    /// The stage that must come out.
    pub fn at(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// The image is changed.
    pub fn image(self, change: fn(&mut Image) -> Result<()>) -> Self {
        self.machine(|machine| machine.change = Some(change))
    }

    /// The image is not changed.
    pub fn unchanged(self) -> Self {
        self.machine(|machine| machine.change = None)
    }

    /// The image is another one than `base`.
    pub fn of(self, image: &'static str) -> Self {
        self.machine(|machine| machine.image = image)
    }

    /// Bash in the place of the VMM, before it starts.
    pub fn before_vmm(self, script: impl Into<String>) -> Self {
        self.machine(|machine| machine.before_vmm = script.into())
    }

    /// The kernel's command line ends with this.
    pub fn cmdline(self, text: &str) -> Self {
        // The command line is the argument that names the console.
        self.before_vmm(format!("edit '/^console=/s|$| {text}|'"))
    }

    /// The daemon is another one.
    pub fn daemon(self, special: Special) -> Self {
        self.machine(|machine| machine.daemon = Some(special))
    }

    /// Something is done on the host while the machine runs.
    pub fn on_host(self, once: Stage, script: &'static str) -> Self {
        self.act(Act { once, place: Place::Host, script, undo: "" })
    }

    /// The same, and taken back afterwards.
    pub fn on_host_until_asked(self, script: &'static str, undo: &'static str) -> Self {
        self.act(Act { once: Stage::Ready, place: Place::Host, script, undo })
    }

    /// Something is done in the guest while the machine runs.
    pub fn in_guest(self, script: &'static str) -> Self {
        self.act(Act { once: Stage::Ready, place: Place::Guest, script, undo: "" })
    }

    /// The machine has to fail by itself although it was ready.
    pub fn fails(self) -> Self {
        self.machine(|machine| machine.asked = false)
    }

    fn act(self, act: Act) -> Self {
        self.machine(|machine| machine.act = Some(act))
    }
}
