//! Tells whether a guest program is what the initramfs needs: an x86-64 ELF executable that no interpreter has to load.
//!
//! Used by the build script when it embeds the programs and by the preflight before a build. Nothing here reads files.
//! Layout: System V ABI, ELF-64 object file format.

use std::fmt;

const EM_X86_64: u16 = 62;
const PT_INTERP: u32 = 3;

/// Why a program cannot run in the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElfFault {
    /// No 64-bit little-endian ELF, or its program headers lie outside the file.
    NotElf64,
    /// For another machine.
    Machine(u16),
    /// It names an interpreter (`ld-linux`), which the initramfs does not have.
    NeedsInterpreter,
}

impl fmt::Display for ElfFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf64 => f.write_str("is no 64-bit little-endian ELF file"),
            Self::Machine(machine) => write!(f, "is for ELF machine {machine}, not x86-64 ({EM_X86_64})"),
            Self::NeedsInterpreter => f.write_str("is not static: it names an interpreter"),
        }
    }
}

impl std::error::Error for ElfFault {}

/// Checks that `bytes` is a static x86-64 program.
pub fn check_static(bytes: &[u8]) -> Result<(), ElfFault> {
    if bytes.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return Err(ElfFault::NotElf64);
    }
    let machine = u16_at(bytes, 18).ok_or(ElfFault::NotElf64)?;
    if machine != EM_X86_64 {
        return Err(ElfFault::Machine(machine));
    }
    let table = u64_at(bytes, 32).and_then(|at| usize::try_from(at).ok()).ok_or(ElfFault::NotElf64)?;
    let entry_size = usize::from(u16_at(bytes, 54).ok_or(ElfFault::NotElf64)?);
    let entries = usize::from(u16_at(bytes, 56).ok_or(ElfFault::NotElf64)?);
    for index in 0..entries {
        let at = index.checked_mul(entry_size).and_then(|offset| offset.checked_add(table));
        match at.and_then(|at| u32_at(bytes, at)) {
            Some(PT_INTERP) => return Err(ElfFault::NeedsInterpreter),
            Some(_) => {}
            None => return Err(ElfFault::NotElf64),
        }
    }
    Ok(())
}

/// Whether `bytes` begins as a 64-bit ELF file for x86-64 does.
pub fn is_x86_64(bytes: &[u8]) -> bool {
    bytes.get(..6) == Some(&[0x7f, b'E', b'L', b'F', 2, 1]) && u16_at(bytes, 18) == Some(EM_X86_64)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_dynamic_program() {
        // The test program itself is linked dynamically.
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(check_static(&bytes), Err(ElfFault::NeedsInterpreter));
        assert_eq!(check_static(&bytes[..60]), Err(ElfFault::NotElf64));
        assert_eq!(check_static(b"#!/bin/sh\n"), Err(ElfFault::NotElf64));
        let mut arm = bytes;
        arm[18..20].copy_from_slice(&183u16.to_le_bytes());
        assert_eq!(check_static(&arm), Err(ElfFault::Machine(183)));
    }
}
