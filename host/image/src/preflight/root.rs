//! What must hold of a root: its filesystem is whole, its init can run, services have their programs, users and ports, and the
//! readiness contract asks for nothing that the image does not have.

use std::collections::BTreeMap;

use airlock_protocol::Stage;
use airlock_protocol::guest_config::{Handover, RootFs};
use airlock_protocol::paths::{GUEST_RUN, HEALTH_PORT, START_PAGE_PORT};

use super::kernel::needs_init;
use super::{Binary, Facts, Problem, ProgramSeen, RootSeen, SuperblockSeen};

/// Where init looks for the image's own, in this order (`guest/init`, handover facts).
const INITS: [&str; 6] =
    ["/sbin/init", "/etc/init", "/bin/init", "/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
/// What a kernel and init take before anything of the image runs, in MiB (measured: a guest of 64 boots no Debian kernel).
const KERNEL_MIB: u64 = 64;
/// What a display with a browser takes, in MiB: one page paints at 512, not at 256.
const DISPLAY_MIB: u64 = 512;

/// Everything wrong with the root and with what is to run in it.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let mut problems: Vec<Problem> = superblock_problems(facts).into_iter().collect();
    problems.extend(memory_problem(facts));
    problems.extend(contract_problems(facts));
    problems.extend(port_problems(facts));
    if let Some(root) = &facts.root {
        problems.extend(init_problems(facts, root));
        problems.extend(service_problems(facts, root));
        problems.extend(mount_problems(facts, root));
    }
    problems
}

fn superblock_problems(facts: &Facts) -> Option<Problem> {
    let (file, wanted) = (&facts.manifest.files.rootfs.name, facts.manifest.root_fs);
    let remedy = "build the image again; never edit or mount its root";
    let what = match facts.superblock {
        SuperblockSeen::Of { kind, wanted: size, actual } if kind == wanted => {
            if size <= actual {
                return None;
            }
            format!("{file} is cut: its {} has {size} bytes, the file {actual}", wanted.name())
        }
        SuperblockSeen::Of { kind, .. } => {
            let what = format!("{file} is {}, the manifest says {}", kind.name(), wanted.name());
            return Some(Problem::new("root_fs_unsupported", Stage::RootMounted, what, remedy));
        }
        SuperblockSeen::Unknown => format!("{file} does not begin as {} does", wanted.name()),
    };
    Some(Problem::new("root_fs_corrupt", Stage::RootMounted, what, remedy))
}

fn memory_problem(facts: &Facts) -> Option<Problem> {
    let manifest = &facts.manifest;
    // The archive is in memory twice while the kernel unpacks it.
    let initramfs = 2 * manifest.files.initramfs.size.div_ceil(1 << 20);
    let least = KERNEL_MIB + initramfs + manifest.display.as_ref().map_or(0, |_| DISPLAY_MIB - KERNEL_MIB);
    let what = format!("memory_mib is {}, the least for what is in the image is {least}", manifest.memory_mib);
    let remedy = format!("set memory_mib to {least} or more");
    (u64::from(manifest.memory_mib) < least).then(|| Problem::new("guest_oom", Stage::InitStarted, what, remedy))
}

fn contract_problems(facts: &Facts) -> Vec<Problem> {
    let manifest = &facts.manifest;
    let mut problems = Vec::new();
    for stage in [Stage::AgentUp, Stage::Reachable] {
        if !manifest.readiness.contains(&stage) {
            let what = format!("readiness lacks {stage}: a machine that nobody can reach would count as ready");
            problems.push(Problem::new("readiness_impossible", stage, what, format!("add {stage} to readiness")));
        }
    }
    let of_display = [Stage::DisplayUp, Stage::BrowserUp, Stage::PagePainted];
    if manifest.display.is_none() {
        for stage in manifest.readiness.iter().filter(|stage| of_display.contains(stage)) {
            let what = format!("readiness has {stage}, and the image has no display");
            let remedy = format!("take {stage} off readiness, or give the image a [display]");
            problems.push(Problem::new("display_failed", *stage, what, remedy));
        }
    }
    problems
}

fn port_problems(facts: &Facts) -> Vec<Problem> {
    let manifest = &facts.manifest;
    let mut taken: BTreeMap<u16, String> = BTreeMap::from([(HEALTH_PORT, "the agent's health".to_owned())]);
    if manifest.display.is_some() {
        taken.insert(START_PAGE_PORT, "the agent's start page".to_owned());
    }
    let mut problems = Vec::new();
    for service in &manifest.services {
        for port in &service.ports {
            let Some(other) = taken.insert(*port, format!("service {}", service.name)) else { continue };
            let what = format!("service {} wants port {port}, which is {other}'s", service.name);
            let of_agent = other.starts_with("the agent");
            let (code, stage) = if of_agent {
                ("agent_port_conflict", Stage::AgentUp)
            } else {
                ("service_port_conflict", Stage::Ready)
            };
            problems.push(Problem::new(code, stage, what, "give each service a port of its own"));
        }
    }
    problems
}

fn init_problems(facts: &Facts, root: &RootSeen) -> Vec<Problem> {
    if facts.manifest.handover != Handover::Init {
        return Vec::new();
    }
    let problem = |what: String, remedy: &str| Problem::new("init_missing", Stage::HandedOver, what, remedy);
    let found = INITS.iter().find(|path| root.exists(path));
    match found {
        // Then it is supervised after all; but nobody starts what is to configure the network.
        None if needs_init(facts.manifest.network_owner) => {
            let owner = facts.manifest.network_owner.name();
            vec![problem(
                format!("the image has no init ({}), which alone starts {owner}", INITS.join(", ")),
                "add an init (systemd-sysv, sysvinit-core), or take network_owner airlock",
            )]
        }
        None => Vec::new(),
        Some(path) => why_not(root, path)
            .map(|why| problem(format!("init {path} {why}"), "correct the image's init: package, mode or interpreter"))
            .into_iter()
            .collect(),
    }
}

fn service_problems(facts: &Facts, root: &RootSeen) -> Vec<Problem> {
    let mut problems = Vec::new();
    for service in &facts.manifest.services {
        let program = service.command.first().map_or("", String::as_str);
        // Ours come with the initramfs.
        if !program.starts_with(GUEST_RUN)
            && let Some(why) = why_not(root, program)
        {
            let what = format!("service {} runs {program}, which {why}", service.name);
            let remedy = "add the package that has the program, or correct its mode or interpreter";
            problems.push(Problem::new("service_program_missing", Stage::Ready, what, remedy));
        }
        let user = service.user.as_deref().unwrap_or("root");
        if !root.has_user(user) {
            let what = format!("service {} runs as {user}, whom the image's /etc/passwd does not have", service.name);
            problems.push(Problem::new("service_user_missing", Stage::Ready, what, "add the user to the recipe"));
        }
    }
    if let Some(display) = &facts.manifest.display {
        let program = display.open_command.first().map_or("", String::as_str);
        if !program.is_empty()
            && let Some(why) = why_not(root, program)
        {
            let what = format!("the display's browser {program} {why}");
            problems.push(Problem::new("browser_missing", Stage::BrowserUp, what, "add a real browser package"));
        }
        if !root.has_user(&display.user) {
            let what = format!("the display belongs to {}, whom the image's /etc/passwd does not have", display.user);
            problems.push(Problem::new("service_user_missing", Stage::DisplayUp, what, "add the user to the recipe"));
        }
    }
    problems
}

/// What systemd waits for in vain before it gives up (fstab(5), systemd.mount(5)); the root itself is mounted by us.
fn mount_problems(facts: &Facts, root: &RootSeen) -> Vec<Problem> {
    let is_systemd = INITS.iter().any(|path| root.leads_to(path, "systemd"));
    if facts.manifest.handover != Handover::Init || !is_systemd {
        return Vec::new();
    }
    let lines = root.fstab.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let missing = lines.filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, place) = (fields.next()?, fields.next()?);
        let options = fields.nth(1).unwrap_or("");
        let is_device = device.starts_with("/dev/") || device.contains('=');
        let may_lack = options.split(',').any(|option| matches!(option, "nofail" | "noauto"));
        (is_device && place != "/" && !may_lack).then(|| {
            let what = format!("/etc/fstab mounts {device} on {place}, a disk that the machine does not have");
            let remedy = "take the line off /etc/fstab, or give it the option nofail";
            Problem::new("systemd_emergency", Stage::HandedOver, what, remedy)
        })
    });
    missing.collect()
}

/// Why a program of the root cannot be run; none if it can.
fn why_not(root: &RootSeen, path: &str) -> Option<String> {
    let Some(program) = root.program(path) else {
        return Some(
            if root.is_dangling(path) { "is a link to nothing" } else { "does not exist in the image" }.to_owned(),
        );
    };
    let ProgramSeen { executable, binary, interpreter } = program;
    if !executable {
        return Some("is not executable".to_owned());
    }
    match binary {
        Binary::Elf { machine } if *machine != 62 => {
            return Some(format!("is for ELF machine {machine}, not x86-64 (62)"));
        }
        Binary::Empty => return Some("is empty".to_owned()),
        Binary::Elf { .. } | Binary::Script | Binary::Other => {}
    }
    let missing = interpreter.as_ref().filter(|interpreter| !interpreter.found)?;
    Some(format!("needs the interpreter {}, which does not exist in the image", missing.path))
}

impl SuperblockSeen {
    /// Reads the first blocks of a filesystem image whose file has `actual` bytes.
    pub fn of(first: &[u8], actual: u64) -> Self {
        let word = |at: usize| first.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        // erofs (fs/erofs/erofs_fs.h): superblock at 1024; magic at 0, blkszbits at 12, blocks at 36.
        if word(1024) == Some(0xe0f5_e1e2) {
            let bits = first.get(1036).copied().map_or(0, u32::from).min(32);
            let wanted = u64::from(word(1060).unwrap_or(u32::MAX)) << bits;
            return Self::Of { kind: RootFs::Erofs, wanted, actual };
        }
        // ext4 (fs/ext4/ext4.h): superblock at 1024; blocks at 4, log of the block size at 24, magic at 56.
        if first.get(1080..1082) == Some(&[0x53, 0xef]) {
            let bits = word(1048).unwrap_or(0).min(6) + 10;
            let wanted = u64::from(word(1028).unwrap_or(u32::MAX)) << bits;
            return Self::Of { kind: RootFs::Ext4, wanted, actual };
        }
        // squashfs (fs/squashfs/squashfs_fs.h): superblock at 0; magic at 0, bytes used at 40.
        if first.starts_with(b"hsqs") {
            let wanted = first.get(40..48).and_then(|word| word.try_into().ok()).map_or(u64::MAX, u64::from_le_bytes);
            return Self::Of { kind: RootFs::Squashfs, wanted, actual };
        }
        Self::Unknown
    }
}
