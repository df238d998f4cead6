//! Reads what an ELF-64 file says of itself (System V ABI, ELF-64 object file format). A file that is cut answers nothing.

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;

/// `e_machine` of an ELF file, 32-bit ones included.
pub(super) fn machine(bytes: &[u8]) -> Option<u16> {
    bytes.starts_with(b"\x7fELF").then(|| array(bytes, 18).map(u16::from_le_bytes))?
}

/// The program that loads this one, if it names one within `bytes`.
pub(super) fn interpreter(bytes: &[u8]) -> Option<String> {
    let (at, size) =
        segments(bytes).find(|segment| segment.kind == PT_INTERP).map(|segment| (segment.at, segment.size))?;
    let text = bytes.get(at..at.checked_add(size)?)?;
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

/// How many bytes a file must have for everything that is loaded from it.
pub(super) fn loaded_end(bytes: &[u8]) -> Option<u64> {
    let ends = segments(bytes).filter(|segment| segment.kind == PT_LOAD);
    ends.map(|segment| segment.at.saturating_add(segment.size) as u64).max()
}

struct Segment {
    kind: u32,
    at: usize,
    size: usize,
}

/// The program headers; ends at the first that is cut.
fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment> {
    let is_64 = bytes.get(4) == Some(&2);
    let table = array(bytes, 32).map(u64::from_le_bytes).and_then(|at| usize::try_from(at).ok()).filter(|_| is_64);
    let half = |at: usize| array(bytes, at).map(u16::from_le_bytes).map_or(0, usize::from);
    let (size, count) = (half(54), half(56));
    (0..count).map_while(move |index| {
        let at = table?.checked_add(index.checked_mul(size)?)?;
        let word = |offset: usize| usize::try_from(u64::from_le_bytes(array(bytes, at.checked_add(offset)?)?)).ok();
        Some(Segment { kind: u32::from_le_bytes(array(bytes, at)?), at: word(8)?, size: word(32)? })
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_who_loads_it() {
        // The test program itself is one.
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(machine(&bytes), Some(62));
        assert_eq!(interpreter(&bytes).as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        let end = loaded_end(&bytes).unwrap();
        assert!(end > 4096 && end <= bytes.len() as u64);
        assert_eq!((machine(b"#!/bin/sh"), interpreter(&bytes[..60]), loaded_end(&bytes[..60])), (None, None, None));
    }
}
