//! Archives for tests: also those that no honest tool writes, so headers are made by hand.

use std::io::Write;

/// A tar being written.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.owned(name, content, (0, 0), 0o644)
    }

    pub(crate) fn program(self, name: &str, content: &[u8]) -> Self {
        self.owned(name, content, (0, 0), 0o755)
    }

    pub(crate) fn owned(self, name: &str, content: &[u8], ids: (u64, u64), mode: u32) -> Self {
        self.named(name).entry(name, b'0', mode, ids, "", (0, 0), content)
    }

    /// A name that is written as it is, also if it is absolute or leads upwards.
    pub(crate) fn raw_name(self, name: &str, content: &[u8]) -> Self {
        self.file(name, content)
    }

    pub(crate) fn directory(self, name: &str, mode: u32) -> Self {
        self.named(name).entry(name, b'5', mode, (0, 0), "", (0, 0), b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        let long = if target.len() > 100 { self.pax(&[("linkpath", target.as_bytes())]) } else { self };
        long.entry(name, b'2', 0o777, (0, 0), target, (0, 0), b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', 0o644, (0, 0), target, (0, 0), b"")
    }

    pub(crate) fn device(self, name: &str, kind: u8, device: (u32, u32)) -> Self {
        self.entry(name, kind, 0o600, (0, 0), "", device, b"")
    }

    pub(crate) fn with_xattr(self, name: &str, content: &[u8], key: &str, value: &[u8]) -> Self {
        self.with_pax(name, content, &format!("SCHILY.xattr.{key}"), value)
    }

    pub(crate) fn with_pax(self, name: &str, content: &[u8], key: &str, value: &[u8]) -> Self {
        self.pax(&[(key, value)]).entry(name, b'0', 0o755, (0, 0), "", (0, 0), content)
    }

    /// The archive with its end mark.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    fn named(self, name: &str) -> Self {
        if name.len() > 100 { self.pax(&[("path", name.as_bytes())]) } else { self }
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            write!(text, "{len} {key}=").unwrap();
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.entry("pax", b'x', 0o644, (0, 0), "", (0, 0), &text)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a header")]
    fn entry(
        mut self,
        name: &str,
        kind: u8,
        mode: u32,
        ids: (u64, u64),
        link: &str,
        device: (u32, u32),
        content: &[u8],
    ) -> Self {
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name.as_bytes()[..name.len().min(100)]);
        put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0{:011o}\0{:011o}\0", ids.0, ids.1, content.len(), 1).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &link.as_bytes()[..link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0{:07o}\0", device.0, device.1).as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
}
