//! Bytes of a serial log as records: one thing that one writer said.
//!
//! ```text
//! bytes -> lines (at most 16 KiB) -> without terminal sequences -> split where another writer broke in -> record
//! ```
//! A kernel message may land behind a prompt or in the middle of a status line, and a spinner returns its carriage: both begin a
//! record of their own. Any bytes are taken; memory is constant. What is longer than a line may be is cut, never joined.

use memchr::{memchr, memchr2, memrchr};

/// The longest line that is looked at, in bytes; the rest of a longer one is skipped.
pub const MAX_LINE: usize = 16 * 1024;
/// How far into a record the name of its writer is looked for.
const MAX_PREFIX: usize = 120;

/// One thing that one writer said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record<'a> {
    /// Number of its line, from 1.
    pub line: u64,
    /// Seconds since the kernel started, where the record says so.
    pub stamp: Option<f64>,
    /// The program that said it, of `name[pid]: text`.
    pub program: Option<&'a [u8]>,
    /// What was said, without stamp and program.
    pub text: &'a [u8],
    /// The same with the program.
    pub whole: &'a [u8],
}

impl Record<'_> {
    /// Whether the kernel said it. A kernel that does not stamp its messages cannot be told from others (`stamps` is false).
    pub fn is_of_kernel(&self, stamps: bool) -> bool {
        self.program.is_none() && (self.stamp.is_some() || !stamps)
    }
}

/// Splits a log into cleaned lines, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    clean: Vec<u8>,
    count: u64,
}

impl Lines {
    /// Takes the next bytes; calls `on_line` with the number and the cleaned text of each complete line.
    pub fn feed(&mut self, mut bytes: &[u8], on_line: &mut impl FnMut(u64, &[u8])) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default());
            self.count += 1;
            if self.pending.is_empty() {
                emit(&mut self.clean, self.count, line, on_line);
            } else {
                self.keep(line);
                let pending = std::mem::take(&mut self.pending);
                emit(&mut self.clean, self.count, &pending, on_line);
                self.pending = pending;
                self.pending.clear();
            }
            bytes = rest;
        }
        self.keep(bytes);
    }

    /// The last line, if it has no end.
    pub fn finish(&mut self, on_line: &mut impl FnMut(u64, &[u8])) {
        if !self.pending.is_empty() {
            self.count += 1;
            let pending = std::mem::take(&mut self.pending);
            emit(&mut self.clean, self.count, &pending, on_line);
        }
    }

    /// Lines so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.pending.len());
        self.pending.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }
}

fn emit(clean: &mut Vec<u8>, number: u64, line: &[u8], on_line: &mut impl FnMut(u64, &[u8])) {
    let line = line.get(..line.len().min(MAX_LINE)).unwrap_or_default();
    let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
    let line = line.get(..end).unwrap_or_default();
    if memchr2(0x1b, 0, line).is_none() {
        return on_line(number, line);
    }
    clean.clear();
    strip(line, clean);
    on_line(number, clean);
}

/// Removes terminal sequences (ECMA-48). One that was cut, by the writer or by another line, ends where it cannot go on.
fn strip(line: &[u8], clean: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(&byte) = line.get(at) {
        at += 1;
        match byte {
            0 => {}
            0x1b => at = after_escape(line, at),
            _ => clean.push(byte),
        }
    }
}

fn after_escape(line: &[u8], mut at: usize) -> usize {
    match line.get(at) {
        Some(b'[') => {
            at += 1;
            while line.get(at).is_some_and(|byte| matches!(byte, 0x20..=0x3f)) {
                at += 1;
            }
            // A final byte belongs to the sequence; anything else cut it.
            at + usize::from(line.get(at).is_some_and(|byte| matches!(byte, 0x40..=0x7e)))
        }
        // An operating system command: to BEL or ESC \.
        Some(b']') => match memchr2(7, 0x1b, line.get(at..).unwrap_or_default()) {
            Some(end) if line.get(at + end) == Some(&7) => at + end + 1,
            Some(end) => at + end + if line.get(at + end + 1) == Some(&b'\\') { 2 } else { 0 },
            None => line.len(),
        },
        Some(0x20..=0x7e) => at + 1,
        _ => at,
    }
}

/// A part of a line that is one record; who said it is found out when somebody asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part<'a> {
    /// As in [`Record`].
    pub line: u64,
    /// As in [`Record`].
    pub stamp: Option<f64>,
    /// What was said, with the program.
    pub whole: &'a [u8],
}

impl<'a> Part<'a> {
    /// With the writer's name apart.
    pub fn record(self) -> Record<'a> {
        let (program, text) = program_of(self.whole);
        Record { line: self.line, stamp: self.stamp, program, text, whole: self.whole }
    }
}

/// Calls `on_part` with every record of a cleaned line and the offset of its end in the line.
pub fn parts<'a>(line: u64, text: &'a [u8], mut on_part: impl FnMut(Part<'a>, usize)) {
    let mut from = 0;
    let mut stamp = None;
    let mut at = 0;
    while let Some(found) = memchr2(b'[', b'\r', text.get(at..).unwrap_or_default()) {
        at += found;
        if text.get(at) == Some(&b'\r') {
            give(line, stamp.take(), text, from..at, &mut on_part);
            at += 1;
            from = at;
        } else if let Some((seconds, length)) = stamp_at(text.get(at..).unwrap_or_default()) {
            if at > from || stamp.is_some() {
                give(line, stamp, text, from..at, &mut on_part);
            }
            stamp = Some(seconds);
            at += length;
            from = at;
        } else {
            at += 1;
        }
    }
    give(line, stamp, text, from..text.len(), &mut on_part);
}

fn give<'a>(
    line: u64,
    stamp: Option<f64>,
    text: &'a [u8],
    range: std::ops::Range<usize>,
    on_part: &mut impl FnMut(Part<'a>, usize),
) {
    let end = range.end;
    let whole = text.get(range).unwrap_or_default().trim_ascii();
    on_part(Part { line, stamp, whole }, end);
}

/// `[    0.123456] ` or `[    0.123456][    T1] `: seconds and length.
fn stamp_at(text: &[u8]) -> Option<(f64, usize)> {
    // printk writes six digits behind the point (kernel/printk/printk.c: print_time).
    let close = memchr(b']', text.get(..24.min(text.len()))?)?;
    let inner = text.get(1..close)?.trim_ascii_start();
    let (whole, fraction) = inner.split_at(memchr(b'.', inner)?);
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    if fraction.len() != 7 || whole.len() > 9 || !digits(whole) || !digits(fraction.get(1..)?) {
        return None;
    }
    let seconds = std::str::from_utf8(inner).ok()?.parse().ok()?;
    let mut length = close + 1;
    // The context of CONFIG_PRINTK_CALLER: T and a thread id, or C and a processor.
    if text.get(length) == Some(&b'[')
        && let Some(end) = memchr(b']', text.get(length..(length + 16).min(text.len()))?)
        && matches!(text.get(length + 1..length + end)?.trim_ascii_start().first(), Some(b'T' | b'C'))
    {
        length += end + 1;
    }
    Some((seconds, length))
}

/// The writer's name of `name[pid]: text`, also behind the date and host of a log file.
fn program_of(whole: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let window = whole.get(..whole.len().min(MAX_PREFIX)).unwrap_or_default();
    let closes = memchr::memchr_iter(b']', window).find(|close| window.get(close + 1..close + 3) == Some(b": "));
    let named = closes.and_then(|close| {
        let open = memrchr(b'[', window.get(..close)?)?;
        let pid = window.get(open + 1..close)?;
        let start = memrchr(b' ', window.get(..open)?).map_or(0, |space| space + 1);
        let name = window.get(start..open)?;
        let sound = !pid.is_empty() && pid.iter().all(u8::is_ascii_digit) && !name.is_empty() && name.len() <= 64;
        let dated = start == 0 || is_date(window);
        (sound && dated).then_some((name, whole.get(close + 3..)?))
    });
    match named {
        Some((name, text)) => (Some(name), text.trim_ascii_start()),
        None => (None, whole),
    }
}

/// `Nov 23 16:00:00 ...` or `2026-11-23T16:00:00 ...`.
fn is_date(text: &[u8]) -> bool {
    let month = text.len() > 7 && text.iter().take(3).all(u8::is_ascii_alphabetic) && text.get(3) == Some(&b' ');
    let iso = text.get(..4).is_some_and(|year| year.iter().all(u8::is_ascii_digit)) && text.get(4) == Some(&b'-');
    (month && text.get(4..6).is_some_and(|day| day.last().is_some_and(u8::is_ascii_digit))) || iso
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(bytes: &[u8], size: usize) -> Vec<String> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        let mut on_line = |_: u64, text: &[u8]| seen.push(String::from_utf8_lossy(text).into_owned());
        for chunk in bytes.chunks(size.max(1)) {
            lines.feed(chunk, &mut on_line);
        }
        lines.finish(&mut on_line);
        seen
    }

    fn said(line: &str) -> Vec<(Option<f64>, String, String)> {
        let mut seen = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        parts(1, line.as_bytes(), |part, _| {
            let record = part.record();
            seen.push((record.stamp, text(record.program.unwrap_or_default()), text(record.text)));
        });
        seen
    }

    #[test]
    fn terminal_sequences_go_also_when_they_were_cut() {
        let status = "[\x1b[0;32m  OK  \x1b[0m] Finished \x1b[0;1;39mnetwork-setup.ser\u{2026}up Network.\r\r\n";
        assert_eq!(lines(status.as_bytes(), 7), ["[  OK  ] Finished network-setup.ser\u{2026}up Network."]);
        // systemd shortens lines in the middle of a sequence.
        for (cut, expected) in [
            ("airlock.service\x1b[0\u{2026}upervisor", "airlock.service\u{2026}upervisor"),
            ("dev-mqueue.mount\x1b[\u{2026}POSIX", "dev-mqueue.mount\u{2026}POSIX"),
            ("e2scrub.timer\x1b\u{2026}etadata", "e2scrub.timer\u{2026}etadata"),
            ("a\x1b]0;title\x07b\x1b]8;;u\x1b\\c", "abc"),
            ("a\x1b[Kb\x1b", "ab"),
            ("a\0b", "ab"),
        ] {
            assert_eq!(lines(cut.as_bytes(), 100), [expected]);
        }
    }

    #[test]
    fn a_writer_who_breaks_in_has_a_record_of_its_own() {
        assert_eq!(
            said("host login: [   12.500000] eth0: gone[   12.600000][    T1] vda: vda1"),
            [
                (None, String::new(), "host login:".into()),
                (Some(12.5), String::new(), "eth0: gone".into()),
                (Some(12.6), String::new(), "vda: vda1".into()),
            ]
        );
        assert_eq!(
            said("[   12.939298] network-setup.sh[140]: Device eth0 found"),
            [(Some(12.939298), "network-setup.sh".into(), "Device eth0 found".into())]
        );
        assert_eq!(
            said("Nov 23 16:00:00 host systemd[1]: Started x."),
            [(None, "systemd".into(), "Started x.".into())]
        );
        assert_eq!(said("one\rtwo").len(), 2);
        for plain in ["[  OK  ] Started x.", "[1.5] no stamp", "a [b]: c", "[x.123456] y"] {
            assert_eq!(said(plain), [(None, String::new(), plain.to_owned())]);
        }
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_one_is_whole() {
        let mut log = vec![b'x'; 3 * MAX_LINE];
        log.extend_from_slice(b"\nnext\n");
        let seen = lines(&log, 1000);
        assert_eq!((seen.len(), seen[0].len(), seen[1].as_str()), (2, MAX_LINE, "next"));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_the_same_lines(bytes in proptest::collection::vec(any::<u8>(), 0..600), size in 1usize..80) {
            let whole = lines(&bytes, bytes.len().max(1));
            prop_assert_eq!(&lines(&bytes, size), &whole);
            for line in whole {
                let mut end = 0;
                parts(1, line.as_bytes(), |_, at| end = at);
                prop_assert_eq!(end, line.len());
            }
        }
    }
}
