use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use airlock_domain::Cause;
use airlock_protocol::Stage;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::error::chain;

const NOW: i64 = 1_764_000_000_000;
const DAY: i64 = 24 * 60 * 60 * 1000;

/// A state directory with one VM in it.
struct State {
    dir: TempDir,
    bundles: Bundles,
}

impl State {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::new(dir.path(), EvidenceLimits { keep_days: 2, max_mib: 32 });
        Self { dir, bundles }
    }

    /// A VM with these files in its directory.
    fn subject(&self, n: u128, files: &[(&str, &[u8])]) -> Subject {
        let vm_id = VmId::from_uuid(Uuid::from_u128(n));
        let vm_dir = self.dir.path().join("vms").join(vm_id.dir_name());
        fs::create_dir_all(&vm_dir).unwrap();
        for (name, content) in files {
            fs::write(vm_dir.join(name), content).unwrap();
        }
        let entry = |stage, ok| TimelineEntry { stage, ok, at_ms: 1.5, guest_us: None, errno: None, detail: None };
        Subject {
            vm_id,
            session_id: Some(SessionId::from_uuid(Uuid::from_u128(n + 1000))),
            vm_dir,
            failure: Failure::new(Cause::LinkMissing, Some(Stage::LinkFound), "no interface has the MAC"),
            timeline: vec![entry(Stage::Planned, true), entry(Stage::LinkFound, false)],
            host: Some(json!({"tap": {"state": "up", "rx_packets": 0}})),
            diagnosis: None,
        }
    }

    fn save(&self, n: u128, saved_ms: i64) -> EvidenceId {
        self.bundles.save(&self.subject(n, &[("console.log", b"last words\n")]), saved_ms).unwrap()
    }

    fn record(&self, id: EvidenceId) -> Record {
        serde_json::from_slice(&fs::read(self.bundles.path(id).join(RECORD)).unwrap()).unwrap()
    }

    fn text(&self, id: EvidenceId, name: &str) -> String {
        fs::read_to_string(self.bundles.path(id).join(name)).unwrap()
    }

    /// Every name in `evidence/`, hidden ones too.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.bundles.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn exported(bundles: &Bundles, id: EvidenceId) -> Vec<u8> {
    let mut bytes = Vec::new();
    bundles.export(id).unwrap().write(&mut bytes).unwrap();
    bytes
}

/// Names and contents of an export.
fn unpacked(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let header = entry.header();
        let facts = (header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap());
        assert_eq!(facts, (0o600, 0, u64::try_from(NOW).unwrap() / 1000), "{name}");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(name, content);
    }
    files
}

#[test]
fn a_bundle_says_what_it_is_and_outlives_the_vm() {
    let state = State::new();
    let subject =
        state.subject(1, &[("console.log", b"last words\n"), ("vmm.log", b"bye\n"), ("vm.json", b"{\"vcpus\":1}")]);
    let id = state.bundles.save(&subject, NOW).unwrap();
    fs::remove_dir_all(&subject.vm_dir).unwrap();

    let record = state.record(id);
    assert_eq!(
        (record.cause.as_str(), record.stage.as_deref(), record.saved_ms, record.session_id),
        ("link_missing", Some("link_found"), NOW, subject.session_id)
    );
    assert_eq!((record.airlock_version.as_str(), record.guest_build_id.len()), (env!("CARGO_PKG_VERSION"), 16));
    let names: Vec<&str> = record.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, [FAILURE, TIMELINE, CONSOLE, HOST, VM, VMM_LOG], "the order of their worth");
    assert_eq!(record.left_out, []);
    for file in &record.files {
        let path = state.bundles.path(id).join(&file.name);
        let content = fs::read(&path).unwrap();
        assert_eq!((file.size, &file.sha256), (content.len() as u64, &hex(&content)), "{}", file.name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.name);
    }
    assert_eq!(state.bundles.path(id).metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(state.text(id, CONSOLE), "last words\n");
    assert!(state.text(id, FAILURE).contains(&id.to_string()), "the failure names its evidence");
    assert_eq!(state.names(), [id.to_string()]);

    let bundle = state.bundles.read(id).unwrap();
    assert_eq!(bundle.detail.as_deref(), Some("no interface has the MAC"));
    assert_eq!((bundle.timeline, bundle.console_end), (subject.timeline, vec!["last words".to_owned()]));
}

#[test]
fn the_first_bundle_of_a_vm_stays() {
    let state = State::new();
    let mut subject = state.subject(1, &[("console.log", b"first\n")]);
    let id = state.bundles.save(&subject, NOW).unwrap();
    fs::remove_dir_all(&subject.vm_dir).unwrap();
    subject.failure = Failure::new(Cause::VmmExited, None, "the daemon ended");
    assert_eq!(state.bundles.save(&subject, NOW + 1).unwrap(), id);
    assert_eq!((state.text(id, CONSOLE).as_str(), state.record(id).cause.as_str()), ("first\n", "link_missing"));
}

#[test]
fn two_at_once_leave_one_whole_bundle() {
    let state = State::new();
    let subject = state.subject(1, &[("console.log", &b"x".repeat(300_000))]);
    let ids: Vec<EvidenceId> = std::thread::scope(|scope| {
        let save = || state.bundles.save(&subject, NOW).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(save)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ids, [ids[0]; 4]);
    assert_eq!((state.names(), state.record(ids[0]).files.len()), (vec![ids[0].to_string()], 4));
}

#[test]
fn no_secret_reaches_a_bundle_or_its_export() {
    let secrets = [
        "airlock_Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE",
        "sk-ant-api03-abcdefghijklmnop",
        "q7Xh2Lk9Zp4Rt6Wm1Vb8",
        "plainPassw0rd",
        "code_value_1",
        "state_value_2",
        "s3cr3t-cookie",
        "basic-Cr3dential",
        "refreshed-9",
        "WDJB-MJHT",
        "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
    ];
    let [token, key, opaque, password, code, state_value, cookie, basic, refresh, device, pem] = secrets;
    let text = format!(
        "[  1.0] got {token} and {opaque}\r\n\
         export ANTHROPIC_API_KEY={key}\n\
         Password: {password}\n\
         GET /callback?code={code}&state={state_value} HTTP/1.1\n\
         open https://idp.example/authorize?client_id=x&state={state_value}\n\
         Cookie: sid={cookie}\nAuthorization: Basic {basic}\n\
         {{\"refresh_token\": \"{refresh}\", \"expires_in\": 3600}}\n\
         enter the code {device} at https://idp.example/device\n\
         -----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n\
         systemd[1]: network-setup.service: Main process exited, code=exited, status=203/EXEC\n"
    );
    let state = State::new();
    let spec = json!({"cmdline": format!("console=ttyS0 token={opaque}"), "env": {"PASSWORD": password}, "log": text});
    let mut subject = state.subject(
        1,
        &[("console.log", text.as_bytes()), ("vmm.log", text.as_bytes()), ("vm.json", spec.to_string().as_bytes())],
    );
    subject.failure.detail = text.clone();
    subject.timeline[1].detail = Some(text.clone());
    subject.host = Some(json!({"note": text, "token": opaque, "nested": [{"authorization": basic, "state": "up"}]}));
    let id = state.bundles.save(&subject, NOW).unwrap();

    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in fs::read_dir(state.bundles.path(id)).unwrap() {
        let entry = entry.unwrap();
        found.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
    }
    assert_eq!(found.len(), 7);
    found.extend(unpacked(&exported(&state.bundles, id)));
    assert_eq!(found.len(), 14);
    let shown = state.bundles.read(id).unwrap();
    found.push(("shown".into(), format!("{shown:?}").into_bytes()));
    for (name, content) in &found {
        let content = String::from_utf8_lossy(content);
        for secret in secrets {
            assert!(!content.contains(secret), "{secret} is in {name}: {content}");
        }
    }
    let console = state.text(id, CONSOLE);
    assert!(console.contains("code=exited, status=203/EXEC") && console.contains("[  1.0] got "), "{console}");
    assert!(state.record(id).files.iter().all(|file| file.redacted > 0), "{:?}", state.record(id));
}

#[test]
fn a_long_console_keeps_both_ends_and_says_what_was_cut() {
    let state = State::new();
    let line = |n: usize| format!("line {n:>9} of a console that never ends, says the guest again and again\n");
    let console: String = (0..).map(line).take((18 << 20) / line(0).len()).collect();
    let begun = std::time::Instant::now();
    let id = state.bundles.save(&state.subject(1, &[("console.log", console.as_bytes())]), NOW).unwrap();
    println!("{} MiB saved in {} ms", console.len() >> 20, begun.elapsed().as_millis());

    let record = state.record(id);
    let cut = record.files.iter().find(|file| file.name == CONSOLE).unwrap().cut.clone().unwrap();
    assert_eq!(cut.reason, "only 16 MiB of a file are kept");
    let kept = state.text(id, CONSOLE);
    let marker = format!("[airlock: {} bytes of console.log were cut out here: {}]\n", cut.bytes, cut.reason);
    let (head, tail) = kept.split_once(&marker).expect("the marker stands on a line of its own");
    assert!(console.starts_with(head) && console.ends_with(tail));
    assert_eq!(head.len() + tail.len() + usize::try_from(cut.bytes).unwrap(), console.len());
    for (part, about) in [(head, 1 << 20), (tail, 15 << 20)] {
        assert!(
            part.ends_with('\n') && part.starts_with("line ") && part.len().abs_diff(about) < 200,
            "{}",
            part.len()
        );
    }
}

#[test]
fn what_is_not_there_or_no_file_is_left_out_and_named() {
    let state = State::new();
    let mut subject = state.subject(1, &[("vm.json", b"{ no json, password=hunter2")]);
    subject.host = None;
    fs::create_dir(subject.vm_dir.join(VMM_LOG)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", subject.vm_dir.join(CONSOLE)).unwrap();
    let id = state.bundles.save(&subject, NOW).unwrap();
    let record = state.record(id);
    let reasons: Vec<(&str, &str)> = record.left_out.iter().map(|l| (l.name.as_str(), l.reason.as_str())).collect();
    assert_eq!(
        reasons,
        [(CONSOLE, "not a regular file"), (HOST, "nothing was observed"), (VMM_LOG, "not a regular file")]
    );
    assert_eq!(state.text(id, VM), "{ no json, password=[redacted]");
    assert_eq!(state.bundles.read(id).unwrap().left_out, record.left_out);

    fs::remove_dir_all(&subject.vm_dir).unwrap();
    let gone = state.bundles.save(&Subject { vm_id: VmId::from_uuid(Uuid::from_u128(2)), ..subject }, NOW).unwrap();
    assert_eq!(state.record(gone).files.len(), 2, "failure and timeline need no directory");
}

#[test]
fn any_bytes_are_kept_as_they_are() {
    let state = State::new();
    let hostile: Vec<u8> = (0..=255u8).cycle().take(100_000).chain(*b"\xff\xfe no end").collect();
    let id = state.bundles.save(&state.subject(1, &[("console.log", &hostile)]), NOW).unwrap();
    assert_eq!(fs::read(state.bundles.path(id).join(CONSOLE)).unwrap(), hostile);
    assert!(!state.bundles.read(id).unwrap().console_end.is_empty());
}

/// A small file system of its own, gone with the test.
struct Tmpfs(TempDir);

impl Tmpfs {
    /// None, with the reason printed, where nothing can be mounted.
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &option, "tmpfs"]).arg(dir.path()).output().unwrap();
        if !mounted.status.success() {
            println!(
                "skipped: no tmpfs can be mounted here (run as root): {}",
                String::from_utf8_lossy(&mounted.stderr)
            );
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_keeps_what_is_worth_most_and_says_so() {
    let state = State::new();
    let console: String = (0..50_000).map(|n| format!("console line {n}\n")).collect();
    let log = "the VMM's own log\n".repeat(20_000);
    let mut subject =
        state.subject(1, &[("console.log", console.as_bytes()), ("vmm.log", log.as_bytes()), ("vm.json", b"{}")]);
    // Sizes of disks, and whether anything of the console fits.
    for (size, fits) in [("256k", true), ("64k", true), ("28k", true), ("20k", true), ("16k", false)] {
        let Some(disk) = Tmpfs::mount(size) else { return };
        let bundles = Bundles::new(disk.0.path(), EvidenceLimits::default());
        let id = bundles.save(&subject, NOW).unwrap();
        let bundle = bundles.read(id).unwrap();
        assert_eq!(bundle.summary.cause, Some(Cause::LinkMissing), "{size}");
        let names: Vec<&str> = bundle.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names.first(), Some(&FAILURE), "{size}");
        let full = |reason: &str| reason.contains("No space left on device");
        assert!(bundle.left_out.iter().all(|left| full(&left.reason)), "{size}: {:?}", bundle.left_out);
        match bundle.files.iter().find(|file| file.name == CONSOLE) {
            Some(file) => {
                let cut = file.cut.as_ref().unwrap();
                assert!(fits && full(&cut.reason), "{size}: {cut:?}");
                assert_eq!(bundle.console_end.last().map(String::as_str), Some("console line 49999"), "{size}");
                let kept = fs::read_to_string(bundles.path(id).join(CONSOLE)).unwrap();
                assert!(kept.starts_with(&format!("[airlock: {} bytes", cut.bytes)), "{size}");
            }
            None => {
                assert!(!fits, "{size}: {bundle:?}");
                assert!(bundle.left_out.iter().any(|left| left.name == CONSOLE), "{size}: {bundle:?}");
            }
        }
        assert_eq!(fs::read_dir(disk.0.path().join("evidence")).unwrap().count(), 1, "{size}: nothing half done stays");
    }

    // Not a byte fits: an error down to the errno, and nothing is left.
    let Some(disk) = Tmpfs::mount("64k") else { return };
    let bundles = Bundles::new(disk.0.path(), EvidenceLimits::default());
    fs::create_dir(disk.0.path().join("evidence")).unwrap();
    let _ = fs::write(disk.0.path().join("filler"), vec![0; 1 << 20]);
    subject.vm_id = VmId::from_uuid(Uuid::from_u128(2));
    let error = bundles.save(&subject, NOW).unwrap_err();
    let expected =
        format!("save evidence bundle {}: No space left on device (os error 28)", EvidenceId::of(subject.vm_id));
    assert_eq!((chain(&error), error.code()), (expected, "evidence_failed"));
    assert_eq!(fs::read_dir(disk.0.path().join("evidence")).unwrap().count(), 0);
}

#[test]
fn retention_removes_by_age_but_not_what_is_held() {
    let state = State::new();
    let (old, held, new) = (state.save(1, NOW - 3 * DAY), state.save(2, NOW - 4 * DAY), state.save(3, NOW - DAY));
    let ids = |found: Vec<Summary>| found.into_iter().map(|summary| summary.id).collect::<Vec<_>>();
    assert_eq!(ids(state.bundles.list().unwrap()), [new, old, held], "newest first");
    let holds = HashSet::from([held.vm_id()]);
    assert_eq!(state.bundles.retain(&holds, NOW).unwrap(), [old]);
    assert_eq!(state.bundles.retain(&holds, NOW).unwrap(), []);
    assert_eq!(ids(state.bundles.list().unwrap()), [new, held]);
    assert_eq!(state.bundles.retain(&HashSet::new(), NOW).unwrap(), [held]);
}

#[test]
fn retention_removes_the_oldest_beyond_the_size() {
    let state = State::new();
    let large = b"a line of a console of some length\n".repeat((12 << 20) / 35);
    let save = |n, saved_ms| state.bundles.save(&state.subject(n, &[("console.log", &large)]), saved_ms).unwrap();
    let ids = [save(1, NOW - 3000), save(2, NOW - 2000), save(3, NOW - 1000)];
    assert_eq!(state.bundles.retain(&HashSet::new(), NOW).unwrap(), [ids[0]]);
    assert_eq!(state.names(), [ids[1].to_string(), ids[2].to_string()]);
}

#[test]
fn what_a_killed_daemon_left_half_done_goes_and_what_is_being_saved_stays() {
    let state = State::new();
    let id = state.save(1, NOW);
    let other = EvidenceId::of(VmId::from_uuid(Uuid::from_u128(9)));
    let ours = state.bundles.hidden(other, "saving");
    let theirs =
        [format!(".{other}"), format!(".{other}.saving-0123456789abcdef-0"), format!(".{other}.gone-{}-7", &*RUN)];
    for dir in theirs.iter().map(|name| state.bundles.dir.join(name)).chain([ours.clone()]) {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(CONSOLE), "half").unwrap();
    }
    fs::write(state.bundles.dir.join("notes.txt"), "an operator's own").unwrap();
    assert_eq!(state.bundles.retain(&HashSet::new(), NOW).unwrap(), []);
    let mut expected = [ours.file_name().unwrap().to_str().unwrap().to_owned(), id.to_string(), "notes.txt".to_owned()];
    expected.sort();
    assert_eq!(state.names(), expected);
    assert_eq!(state.bundles.list().unwrap().len(), 1);
}

#[test]
fn an_export_is_the_same_every_time_and_survives_the_removal() {
    let state = State::new();
    let id = state.save(1, NOW);
    let (first, second) = (exported(&state.bundles, id), exported(&state.bundles, id));
    assert_eq!(first, second);
    let names: Vec<String> = unpacked(&first).into_keys().collect();
    let expected: Vec<String> =
        [RECORD, CONSOLE, FAILURE, HOST, TIMELINE].iter().map(|name| format!("{id}/{name}")).collect();
    assert_eq!(names, expected);

    let open = state.bundles.export(id).unwrap();
    assert_eq!(open.file_name(), format!("{id}.tar.gz"));
    state.bundles.remove(id).unwrap();
    let mut late = Vec::new();
    open.write(&mut late).unwrap();
    assert_eq!(late, first);
    assert_eq!(state.names(), [""; 0]);
}

#[test]
fn an_earlier_versions_bundle_is_shown_as_far_as_it_can_be() {
    let state = State::new();
    let id = state.save(1, NOW);
    fs::remove_file(state.bundles.path(id).join(RECORD)).unwrap();
    let bundle = state.bundles.read(id).unwrap();
    assert_eq!((bundle.summary.cause, bundle.summary.session_id), (Some(Cause::LinkMissing), None));
    assert_eq!(bundle.files.len(), 4);
    fs::write(state.bundles.path(id).join(FAILURE), "{\"cause\": \"of another version\"}").unwrap();
    assert_eq!(state.bundles.list().unwrap()[0].cause, None);
}

#[test]
fn what_is_not_there_is_missing_and_errors_keep_their_cause() {
    let state = State::new();
    let id = EvidenceId::of(VmId::from_uuid(Uuid::nil()));
    assert_eq!(state.bundles.list().unwrap(), []);
    assert_eq!(state.bundles.retain(&HashSet::new(), NOW).unwrap(), []);
    for error in [
        state.bundles.read(id).unwrap_err(),
        state.bundles.export(id).unwrap_err(),
        state.bundles.remove(id).unwrap_err(),
    ] {
        assert_eq!((error.code(), error.kind()), ("no_evidence", ErrorKind::NotFound));
        assert_eq!(chain(&error), format!("there is no evidence bundle {id}"));
    }
    fs::write(state.dir.path().join("evidence"), "no directory").unwrap();
    let error = state.bundles.list().unwrap_err();
    assert_eq!(
        chain(&error),
        format!("list evidence in {}: Not a directory (os error 20)", state.bundles.dir.display())
    );
    assert_eq!(error.kind(), ErrorKind::Internal);
}
