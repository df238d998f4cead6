//! The little of QMP that is needed: greeting, capabilities, one command at a time. Line-delimited JSON (QEMU's qmp-spec.txt).

use std::io;
use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::unix;

pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects as soon as the socket exists and waits for the greeting, which QEMU sends when its machine runs.
    pub(super) async fn connect(socket: &Path) -> io::Result<Self> {
        let mut qmp = Self { stream: BufReader::new(unix::connect_when_there(socket).await?) };
        let greeting = qmp.receive().await?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no QMP greeting but {greeting}")));
        }
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// Runs a command without arguments; returns what it returned. Events in between are skipped.
    pub(super) async fn execute(&mut self, command: &str) -> io::Result<Value> {
        let line = format!("{}\n", json!({ "execute": command }));
        self.stream.get_mut().write_all(line.as_bytes()).await?;
        loop {
            let mut answer = self.receive().await?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("QMP {command}: {error}")));
            }
        }
    }

    async fn receive(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::from)
    }
}
