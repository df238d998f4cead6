//! Waiting for a Unix socket that another program creates.
//!
//! Woken by inotify on the socket's directory. The kernel has no event for listen(2), so a socket that exists but refuses
//! is asked again after short growing pauses; a socket that does not exist costs nothing.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

const FIRST_PAUSE_MS: u16 = 2;
const LONGEST_PAUSE_MS: u16 = 250;

/// Returns a connection as soon as `path` accepts one.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
    let mut pause = FIRST_PAUSE_MS;
    loop {
        // The directory, or the nearest one above it that exists; watching one again changes nothing.
        let _ = path.ancestors().skip(1).find(|dir| inotify.add_watch(*dir, flags).is_ok());
        let timeout = match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::NotFound => PollTimeout::NONE,
            Err(_) => PollTimeout::from(pause),
        };
        let woken = poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], timeout);
        if woken.is_ok_and(|count| count > 0) {
            let _ = inotify.read_events();
            pause = FIRST_PAUSE_MS;
        } else {
            pause = (pause * 2).min(LONGEST_PAUSE_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn is_woken_by_the_socket_even_if_its_directory_comes_later() {
        let dir = std::env::temp_dir().join(format!("airlock-socket-{}", std::process::id()));
        let path = dir.join("a/X1");
        std::fs::create_dir_all(&dir).unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || connect(&path).is_ok()
        });
        std::fs::create_dir(dir.join("a")).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let accepted = listener.accept().is_ok();
        let connected = waiting.join().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(accepted && connected);
    }
}
