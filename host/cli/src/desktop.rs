//! Opening the viewer link in this machine's browser.
//!
//! The link carries a ticket, and what a program is started with can be read by everybody on the machine. So the browser is given a
//! file that only its owner can read, which leads to the link. The file is gone when the command ends.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::failure::{FAILED, Failure, Outcome};
use crate::output::warn;

const REMEDY: &str = "open the printed link yourself, or set BROWSER to a program that opens pages, or install xdg-open (Debian: xdg-utils)";
/// What Debian and the freedesktop.org specifications call the program that opens a page in the person's browser.
const OPENER: &str = "xdg-open";

/// A program that opens pages, found before anything is started.
#[derive(Debug, PartialEq, Eq)]
pub struct Browser {
    program: PathBuf,
    args: Vec<String>,
}

/// What keeps the page readable for the browser.
#[derive(Debug)]
pub struct Opened {
    _page: NamedTempFile,
}

impl Browser {
    /// `$BROWSER` (programs separated by colons, the first that is there; `%s` stands for the page), else `xdg-open`.
    pub fn find() -> Outcome<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let wanted = std::env::var("BROWSER").unwrap_or_default();
        Self::among(&wanted, &dirs).ok_or_else(|| {
            let message = if wanted.is_empty() {
                format!("this machine has no program to open a page with: BROWSER is not set and {OPENER} is not installed")
            } else {
                format!("this machine has no program to open a page with: none of BROWSER={wanted:?} is installed, and no {OPENER}")
            };
            Failure::new(FAILED, "no_local_browser", message, "leave --open out; the link is printed in any case. Or: set BROWSER, or install xdg-open (Debian: xdg-utils)")
        })
    }

    fn among(wanted: &str, dirs: &[PathBuf]) -> Option<Self> {
        wanted.split(':').chain([OPENER]).find_map(|command| {
            let mut words = command.split_whitespace();
            let program = program_in(words.next()?, dirs)?;
            Some(Self { program, args: words.map(str::to_owned).collect() })
        })
    }

    /// Opens the link. A browser that does not start is said with what to do; the sign-in goes on without it.
    pub fn open(&self, link: &str) -> Option<Opened> {
        let opened = self.start(link);
        opened.inspect_err(|error| warn(&format!("{} did not start: {error}", self.program.display()), REMEDY)).ok()
    }

    fn start(&self, link: &str) -> io::Result<Opened> {
        let page = page(link)?;
        let place = page.path().display().to_string();
        let mut args: Vec<String> = self.args.iter().map(|arg| arg.replace("%s", &place)).collect();
        if args == self.args {
            args.push(place);
        }
        let mut command = Command::new(&self.program);
        let child = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let (mut child, program) = (child?, self.program.clone());
        std::thread::spawn(move || {
            if let Ok(status) = child.wait()
                && !status.success()
            {
                warn(&format!("{} could not open the viewer: {status}", program.display()), REMEDY);
            }
        });
        Ok(Opened { _page: page })
    }
}

/// A page that leads to the link, readable by its owner only.
fn page(link: &str) -> io::Result<NamedTempFile> {
    let mut page = tempfile::Builder::new().prefix("airlock-").suffix(".html").tempfile()?;
    let safe = link.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    writeln!(
        page,
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0;url={safe}\"><title>Airlock</title><a href=\"{safe}\">Open the viewer</a>"
    )?;
    page.flush()?;
    Ok(page)
}

fn program_in(name: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| name.into());
    }
    dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_program_that_is_there_opens_pages() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        assert_eq!(Browser::among("", &dirs), None);
        assert_eq!(Browser::among("firefox:w3m %s", &dirs), None);
        std::fs::write(dir.path().join(OPENER), "").unwrap();
        assert_eq!(Browser::among("firefox", &dirs).unwrap().program, dir.path().join(OPENER));
        std::fs::write(dir.path().join("w3m"), "").unwrap();
        let found = Browser::among("firefox:w3m -N %s", &dirs).unwrap();
        assert_eq!((found.program, found.args), (dir.path().join("w3m"), vec!["-N".to_owned(), "%s".to_owned()]));
    }

    #[test]
    fn the_ticket_is_in_a_private_file_and_in_no_argument() {
        let dir = tempfile::tempdir().unwrap();
        let (script, seen) = (dir.path().join("browser"), dir.path().join("seen"));
        std::fs::write(
            &script,
            format!("#!/bin/sh\necho \"$@\" >{0}.new; cat \"$1\" >>{0}.new; mv {0}.new {0}\n", seen.display()),
        )
        .unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let browser = Browser { program: script, args: Vec::new() };
        let page = page("http://h/x?ticket=s3cret&a=\"b\"").unwrap();
        assert_eq!(page.as_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let opened = browser.start("http://h/novnc?ticket=s3cret").unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !seen.exists() {
            assert!(std::time::Instant::now() < deadline, "the browser was not started");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let text = std::fs::read_to_string(&seen).unwrap();
        let (args, content) = text.split_once('\n').unwrap();
        assert!(args.ends_with(".html") && !args.contains("s3cret"), "{args}");
        assert!(content.contains("url=http://h/novnc?ticket=s3cret"), "{content}");
        let place = PathBuf::from(args);
        drop(opened);
        assert!(!place.exists(), "nothing of it is left");
    }
}
