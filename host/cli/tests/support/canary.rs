//! Where a secret may be that should be nowhere: files, command lines and environments of every process, memory of one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

/// Every file below `dir` that holds one of the marks, with the mark.
pub fn in_files(dir: &Path, marks: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        match kind {
            Ok(kind) if kind.is_dir() => found.extend(in_files(&path, marks)),
            Ok(kind) if kind.is_file() => {
                let bytes = fs::read(&path).unwrap_or_default();
                found.extend(held(&bytes, marks).into_iter().map(|mark| (path.clone(), mark)));
            }
            _ => {}
        }
    }
    found
}

/// Every process with one of the marks in its command line or its environment.
pub fn in_processes(marks: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if entry.file_name().to_str().is_none_or(|name| name.parse::<i32>().is_err()) {
            continue;
        }
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            found.extend(
                held(&bytes, marks).into_iter().map(|mark| (format!("{}/{file}", entry.path().display()), mark)),
            );
        }
    }
    found
}

/// So many bytes around a mark say what held it.
const AROUND: usize = 160;

/// Where in a process's writable memory a mark is: the address with its region, and what is around it. Only root may ask.
pub fn in_memory(pid: u32, marks: &[&str]) -> Vec<(String, String)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).unwrap();
        let (from, to) = (u64::from_str_radix(range.0, 16).unwrap(), u64::from_str_radix(range.1, 16).unwrap());
        // In pieces that overlap by more than a mark is long.
        const PIECE: u64 = 1 << 20;
        let mut at = from;
        while at < to {
            let mut bytes = vec![0; usize::try_from((to - at).min(PIECE + 256)).unwrap()];
            if memory.read_exact_at(&mut bytes, at).is_ok() {
                looked_at += bytes.len();
                for mark in marks {
                    found.extend(Finder::new(mark).find_iter(&bytes).map(|place| {
                        let around =
                            &bytes[place.saturating_sub(AROUND)..(place + mark.len() + AROUND).min(bytes.len())];
                        (format!("{:#x} in {line}", at + place as u64), around.escape_ascii().to_string())
                    }));
                }
            }
            at += PIECE;
        }
    }
    assert!(looked_at > 1 << 20, "the memory of {pid} could not be read");
    found
}

/// The marks that bytes hold.
pub fn held(bytes: &[u8], marks: &[&str]) -> Vec<String> {
    marks.iter().filter(|mark| Finder::new(mark).find(bytes).is_some()).map(|mark| (*mark).to_owned()).collect()
}
