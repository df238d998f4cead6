//! Bare guests, put together byte by byte: an ELF file with one segment that is entered in 64-bit mode (Linux' boot protocol for
//! x86-64, without a PVH note), writes to the first serial port and ends by the keyboard controller's reset line. They run
//! wherever KVM runs anything, also where stock kernels do not.

/// Where a guest is loaded and entered.
const ENTRY: u64 = 0x10_0000;
/// What every guest says first.
pub const WORDS: &str = "bare guest\r\n";
/// What a guest that counts says, about every tenth of a second.
pub const TICK: char = '.';

/// What a guest does behind its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It resets, which ends Firecracker with 0.
    Reset,
    /// It halts for ever, as a stock kernel that was told to power off and finds no power switch.
    Halt,
    /// It resets when a key is pressed (Ctrl-Alt-Del is one).
    AwaitKey,
    /// The same, with a tick now and then, so that it is seen to run.
    CountUntilKey,
}

/// The ELF file of a guest.
pub fn elf(then: Then) -> Vec<u8> {
    let code = code(then);
    let size = u64::try_from(code.len()).unwrap();
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes()); // ET_EXEC, EM_X86_64
    }
    file.extend(1_u32.to_le_bytes());
    for word in [ENTRY, 64, 0] {
        file.extend(word.to_le_bytes()); // entry, program headers, section headers
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1_u32, 7] {
        file.extend(word.to_le_bytes()); // PT_LOAD, all rights
    }
    for word in [0x1000_u64, ENTRY, ENTRY, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.resize(0x1000, 0);
    file.extend(code);
    file
}

fn code(then: Then) -> Vec<u8> {
    let mut code = vec![
        0xfa, // cli
        0xfc, // cld
        0xba, 0xf8, 0x03, 0, 0, // mov edx, 0x3f8
        0x48, 0x8d, 0x35, 0, 0, 0, 0, // lea rsi, [rip + words], filled in below
    ];
    let behind_lea = code.len();
    code.extend([
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz done
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
    ]);
    match then {
        Then::Reset => {}
        Then::Halt => code.extend([
            0xf4, // halt: hlt
            0xeb, 0xfd, // jmp halt
        ]),
        Then::AwaitKey => code.extend([
            0xe4, 0x64, // wait: in al, 0x64
            0xa8, 0x01, // test al, 1
            0x74, 0xfa, // jz wait
        ]),
        Then::CountUntilKey => code.extend([
            0xb9, 0x00, 0x80, 0, 0, // again: mov ecx, 0x8000
            0xe4, 0x64, // wait: in al, 0x64
            0xa8, 0x01, // test al, 1
            0x75, 0x09, // jnz reset
            0xff, 0xc9, // dec ecx
            0x75, 0xf6, // jnz wait
            0xb0, 0x2e, // mov al, '.'
            0xee, // out dx, al
            0xeb, 0xec, // jmp again
        ]),
    }
    code.extend([
        0xb0, 0xfe, // reset: mov al, 0xfe
        0xe6, 0x64, // out 0x64, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp -1
    ]);
    let words = i32::try_from(code.len() - behind_lea).unwrap();
    code[behind_lea - 4..behind_lea].copy_from_slice(&words.to_le_bytes());
    code.extend(WORDS.bytes().chain([0]));
    code
}

#[test]
fn a_guest_is_an_elf_file_whose_jumps_end_where_they_should() {
    let file = elf(Then::CountUntilKey);
    assert_eq!(&file[..4], b"\x7fELF");
    let code = &file[0x1000..];
    // Every jump of two bytes, from behind it: to the reset, to `wait`, to `again`.
    let target = |at: usize| i64::try_from(at + 2).unwrap() + i64::from(code[at + 1].cast_signed());
    let reset = code.windows(4).position(|bytes| bytes == [0xb0, 0xfe, 0xe6, 0x64]).unwrap();
    let again = code.windows(5).position(|bytes| bytes == [0xb9, 0x00, 0x80, 0, 0]).unwrap();
    assert_eq!(target(again + 9), i64::try_from(reset).unwrap());
    assert_eq!(target(again + 13), i64::try_from(again + 5).unwrap());
    assert_eq!(target(again + 18), i64::try_from(again).unwrap());
    assert!(file.ends_with(b"bare guest\r\n\0"));
}
