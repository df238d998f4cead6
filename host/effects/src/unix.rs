//! Unix sockets by a path of any length: connecting to one, as soon as it exists, and listening.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use crate::watch::DirWatch;

/// `sun_path` holds 107 bytes and a NUL (unix(7)).
const MAX_PATH: usize = 107;

/// Connects now. A path that is too long for the kernel goes through a descriptor of its directory.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= MAX_PATH {
        return UnixStream::connect(path).await;
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(dir)?;
    UnixStream::connect(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)).await
}

/// Listens. A path that is too long goes through a descriptor of its directory, as in [`connect`].
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() <= MAX_PATH {
        return UnixListener::bind(path);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(dir)?;
    UnixListener::bind(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

/// Connects as soon as the socket is there. Runs until then: the caller bounds it.
pub(crate) async fn connect_when_there(path: &Path) -> io::Result<UnixStream> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let watch = DirWatch::new(dir).map_err(|error| error.source)?;
    let mut refused = 0;
    loop {
        match connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => watch.changed().await,
            // Between bind(2), which makes the file, and listen(2), which makes no event, lie microseconds.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && refused < 50 => {
                refused += 1;
                let _ = tokio::time::timeout(Duration::from_millis(2), watch.changed()).await;
            }
            other => return other,
        }
    }
}
