//! A console file as a stream of bytes while the VMM writes it.
//!
//! ```text
//! waiting for the file ──> reading ──(end, not told to stop)──> waiting for a change ──> reading ...
//!                                  └─(end, told to stop)──────> ended
//! ```
//! The directory is watched before the first read, so no byte is missed; the file may not exist yet. Dropping the tail ends it;
//! [`Stop::finish`] ends it after everything written so far was delivered.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::watch::{DirWatch, WatchError};

/// The largest chunk, in bytes.
const CHUNK: usize = 64 * 1024;

/// Why a console cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The directory cannot be watched.
    #[error("follow console {}", path.display())]
    Watch {
        /// The console file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: WatchError,
    },
    /// The file cannot be read.
    #[error("read console {} at byte {offset}", path.display())]
    Read {
        /// The console file.
        path: PathBuf,
        /// How far it was read.
        offset: u64,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A console that is being followed.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    watch: DirWatch,
    stop: watch::Receiver<bool>,
    stopper: watch::Sender<bool>,
}

/// Tells a [`Tail`] that nothing more will be written.
#[derive(Debug, Clone)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// The tail delivers what is in the file and ends.
    pub fn finish(&self) {
        self.0.send_replace(true);
    }
}

/// Follows `path` from byte `offset`. The file's directory must exist, the file need not.
pub fn tail(path: &Path, offset: u64) -> Result<Tail, ConsoleError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let watch = DirWatch::new(dir).map_err(|source| ConsoleError::Watch { path: path.to_owned(), source })?;
    let (stopper, stop) = watch::channel(false);
    Ok(Tail { path: path.to_owned(), file: None, offset, watch, stop, stopper })
}

impl Tail {
    /// What ends this tail.
    pub fn stop(&self) -> Stop {
        Stop(self.stopper.clone())
    }

    /// How far the file was delivered, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, never empty; none after [`Stop::finish`]. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ConsoleError> {
        loop {
            // Looked at before the read: what was written before the stop is then surely read.
            let stopped = *self.stop.borrow_and_update();
            if let Some(bytes) = self.read()? {
                return Ok(Some(bytes));
            }
            if stopped {
                return Ok(None);
            }
            tokio::select! {
                () = self.watch.changed() => {}
                _ = self.stop.changed() => {}
            }
        }
    }

    /// The same as a [`futures_util::Stream`].
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<Vec<u8>, ConsoleError>> {
        futures_util::stream::unfold(Some(self), |tail| async move {
            let mut tail = tail?;
            match tail.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(tail))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Reads what is there, without waiting: a console is a regular file in the page cache.
    fn read(&mut self) -> Result<Option<Vec<u8>>, ConsoleError> {
        let mut bytes = vec![0; CHUNK];
        let mut read = || -> io::Result<(Option<File>, usize)> {
            let file = match self.file.take() {
                Some(file) => file,
                None => match File::open(&self.path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, 0)),
                    opened => opened?,
                },
            };
            let count = file.read_at(&mut bytes, self.offset)?;
            Ok((Some(file), count))
        };
        let (file, count) =
            read().map_err(|source| ConsoleError::Read { path: self.path.clone(), offset: self.offset, source })?;
        self.file = file;
        self.offset += count as u64;
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chain;
    use std::io::Write;
    use std::time::Duration;

    async fn next(tail: &mut Tail) -> Option<String> {
        let bytes = tokio::time::timeout(Duration::from_secs(5), tail.next()).await.unwrap().unwrap()?;
        Some(String::from_utf8(bytes).unwrap())
    }

    #[tokio::test]
    async fn delivers_every_byte_in_order_and_ends_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut tail = tail(&path, 0).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), tail.next()).await.is_err());
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert_eq!(next(&mut tail).await.as_deref(), Some("one"));
        let writer = std::thread::spawn(move || {
            for number in 0..1000 {
                writeln!(file, "line {number}").unwrap();
            }
        });
        let expected: String = (0..1000).map(|number| format!("line {number}\n")).collect();
        let mut seen = String::new();
        while seen.len() < expected.len() {
            seen.push_str(&next(&mut tail).await.unwrap());
        }
        writer.join().unwrap();
        assert_eq!(seen, expected);
        let stop = tail.stop();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"last").unwrap();
        stop.finish();
        assert_eq!(next(&mut tail).await.as_deref(), Some("last"));
        assert_eq!(next(&mut tail).await, None);
    }

    #[tokio::test]
    async fn starts_at_an_offset_and_is_a_stream() {
        use futures_util::StreamExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::fs::write(&path, "0123456789").unwrap();
        let tail = tail(&path, 4).unwrap();
        tail.stop().finish();
        let chunks: Vec<_> = tail.into_stream().map(Result::unwrap).collect().await;
        assert_eq!(chunks, [b"456789"]);
    }

    #[tokio::test]
    async fn errors_keep_their_cause() {
        let error = tail(Path::new("/no/such/console.log"), 0).unwrap_err();
        assert_eq!(
            chain(&error),
            [
                "follow console /no/such/console.log",
                "watch directory /no/such",
                "No such file or directory (os error 2)"
            ]
        );
        let dir = tempfile::tempdir().unwrap();
        let error = tail(&dir.path().join("."), 0).map(|mut tail| tail.read().unwrap_err());
        assert_eq!(chain(&error.unwrap())[1], "Is a directory (os error 21)");
    }
}
