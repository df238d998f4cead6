//! Real processes; each is ended by its own handle.

use std::time::{Duration, Instant};

use super::*;
use crate::testing::{TestNetns, chain, skip_unless_root};

const SOON: Duration = Duration::from_secs(5);

fn spec(program: &str, args: &[&str], dir: &std::path::Path) -> SpawnSpec<'static> {
    SpawnSpec {
        program: program.into(),
        args: args.iter().map(Into::into).collect(),
        dir: dir.to_owned(),
        output: Some(dir.join("output.log")),
        netns: None,
        pid_namespace: false,
    }
}

async fn exit_of(process: &ProcessHandle) -> VmmExit {
    tokio::time::timeout(SOON, process.exited()).await.unwrap()
}

#[tokio::test]
async fn exit_codes_signals_and_output_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let process = spawn(spec("sh", &["-c", "echo out; echo err >&2; exit 7"], dir.path())).await.unwrap();
    assert_eq!(exit_of(&process).await, VmmExit { code: Some(7), signal: None });
    assert_eq!(std::fs::read_to_string(dir.path().join("output.log")).unwrap(), "out\nerr\n");
    assert_eq!(process.exit(), Some(VmmExit { code: Some(7), signal: None }));
    assert!(!process.kill().unwrap());
    // Reaped: not even a zombie is left.
    assert_eq!(start_ticks(process.id().pid), None);
}

#[tokio::test]
async fn kill_is_seen_at_once_by_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let process = spawn(spec("sleep", &["1000"], dir.path())).await.unwrap();
    assert!(is_alive(process.id()));
    let stranger = ProcessHandle::open(process.id()).unwrap().unwrap();
    let waiting = tokio::spawn({
        let process = process.clone();
        async move { (process.exited().await, Instant::now()) }
    });
    tokio::task::yield_now().await;
    let killed = Instant::now();
    assert!(process.kill().unwrap());
    let (exit, seen) = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert_eq!(exit, VmmExit { code: None, signal: Some(libc::SIGKILL) });
    assert!(seen - killed < Duration::from_millis(100), "{:?}", seen - killed);
    exit_of(&stranger).await;
    assert!(!is_alive(process.id()));
    assert!(ProcessHandle::open(process.id()).unwrap().is_none());
}

#[tokio::test]
async fn a_child_nobody_holds_is_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let process = spawn(spec("sleep", &["1000"], dir.path())).await.unwrap();
    let id = process.id();
    let stranger = ProcessHandle::open(id).unwrap().unwrap();
    process.kill().unwrap();
    drop(process);
    exit_of(&stranger).await;
    // Either of the two watching tasks reaps it; both have run once the pidfd was readable.
    tokio::time::timeout(SOON, async {
        while start_ticks(id.pid).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_process_that_is_not_our_child_is_watched_too() {
    let dir = tempfile::tempdir().unwrap();
    // The shell's child becomes an orphan: another process is its parent, as after a restart of the daemon.
    let shell = spawn(spec("sh", &["-c", "sleep 1000 & echo $!"], dir.path())).await.unwrap();
    exit_of(&shell).await;
    let pid = std::fs::read_to_string(dir.path().join("output.log")).unwrap().trim().parse().unwrap();
    let id = ProcessId { pid, start_ticks: start_ticks(pid).unwrap() };
    let orphan = ProcessHandle::open(id).unwrap().unwrap();
    orphan.kill().unwrap();
    assert_eq!(exit_of(&orphan).await, VmmExit { code: None, signal: None });
    assert!(!is_alive(id));
}

#[tokio::test]
async fn a_reused_pid_is_not_taken_for_the_old_process() {
    let own = std::process::id().cast_signed();
    let id = ProcessId { pid: own, start_ticks: start_ticks(own).unwrap() };
    assert!(is_alive(id) && ProcessHandle::open(id).unwrap().is_some());
    let other = ProcessId { start_ticks: id.start_ticks + 1, ..id };
    assert!(!is_alive(other) && ProcessHandle::open(other).unwrap().is_none());
    let none = ProcessId { pid: i32::MAX, start_ticks: 1 };
    assert!(!is_alive(none) && ProcessHandle::open(none).unwrap().is_none());
}

#[tokio::test]
async fn a_child_has_its_own_session_its_namespace_and_none_of_our_files() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let netns = Netns::create(guard.name()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // A descriptor without CLOEXEC, as a careless library would leave one.
    let leaked = std::fs::File::open("/dev/zero").unwrap();
    nix::fcntl::fcntl(&leaked, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let script =
        "readlink /proc/self/ns/net; cut -d' ' -f6 /proc/$$/stat; echo $$; ls -l /proc/$$/fd | grep -c zero; env";
    let process = spawn(SpawnSpec { netns: Some(&netns), ..spec("sh", &["-c", script], dir.path()) }).await.unwrap();
    exit_of(&process).await;
    let output = std::fs::read_to_string(dir.path().join("output.log")).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    let inside = netns.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(lines[0], inside.to_str().unwrap());
    assert_eq!(lines[1], lines[2], "not a session leader");
    assert_eq!(lines[3], "0", "inherited a descriptor");
    assert!(!output.contains("CARGO"), "inherited the environment: {output}");
}

#[test]
fn the_name_of_a_process_cannot_confuse_the_parser() {
    let stat = b"42 (a) S 1 (b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
    assert_eq!(parse_stat(stat), Some((b'R', 4711)));
    assert_eq!(parse_stat(b""), None);
    assert_eq!(parse_stat(b"42 (x"), None);
}

#[tokio::test]
async fn errors_keep_their_cause() {
    let dir = tempfile::tempdir().unwrap();
    let error = spawn(spec("airlock-no-such-program", &[], dir.path())).await.unwrap_err();
    assert_eq!(chain(&error), ["start \"airlock-no-such-program\"", "No such file or directory (os error 2)"]);
    let output = Some(dir.path().to_owned());
    let error = spawn(SpawnSpec { output, ..spec("true", &[], dir.path()) }).await.unwrap_err();
    assert_eq!(chain(&error)[1], "Is a directory (os error 21)");
}
