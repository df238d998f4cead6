//! The ELF form of a kernel: taken out of a bzImage, and what it says of itself.
//!
//! Sources: the x86 boot protocol (`Documentation/arch/x86/boot.rst`: setup_sects, payload_offset, payload_length), the
//! kernel's `scripts/extract-vmlinux` and `scripts/extract-ikconfig`. Pure; what does not fit is refused by name.

use std::io::Read;

use flate2::read::GzDecoder;
use lzma_rust2::XzReader;

use crate::elf;

/// Larger than any kernel.
const LIMIT: u64 = 1 << 30;
/// First boot protocol that says where the payload is.
const PROTOCOL: u16 = 0x0208;
/// What precedes and follows the configuration that a kernel with `CONFIG_IKCONFIG` carries.
const CONFIG_BEGIN: &[u8] = b"IKCFG_ST";

/// Why a kernel's ELF form cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxFault {
    /// Too short, or no boot protocol that names the payload.
    #[error("it is no bzImage of boot protocol 2.08 or newer")]
    NoBzImage,
    /// Compressed in a way that is not read here.
    #[error("its payload is compressed in a way that is not read here (it begins with {magic})")]
    Compression {
        /// First bytes, in hex.
        magic: String,
    },
    /// It does not decompress.
    #[error("its payload does not decompress")]
    Payload(#[source] std::io::Error),
    /// What came out is no kernel.
    #[error("its payload is no x86-64 ELF")]
    NoElf,
}

/// Takes the kernel's ELF file out of a bzImage.
pub(crate) fn of_bzimage(image: &[u8]) -> Result<Vec<u8>, VmlinuxFault> {
    let byte = |at: usize| image.get(at).copied();
    let word = |at: usize| image.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let place = || {
        let protocol = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
        let setup = match byte(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = (setup + 1) * 512 + usize::try_from(word(0x248)?).ok()?;
        let payload = image.get(start..start.checked_add(usize::try_from(word(0x24c)?).ok()?)?)?;
        (protocol >= PROTOCOL && !payload.is_empty()).then_some(payload)
    };
    let payload = place().ok_or(VmlinuxFault::NoBzImage)?;
    // Behind the stream stands its plain length; the readers stop at the end of the stream.
    let mut plain = Vec::new();
    let read = match payload {
        [0x1f, 0x8b, ..] => GzDecoder::new(payload).take(LIMIT).read_to_end(&mut plain),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => XzReader::new(payload, false).take(LIMIT).read_to_end(&mut plain),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::Decoder::new(payload).and_then(|decoder| decoder.single_frame().take(LIMIT).read_to_end(&mut plain))
        }
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4_legacy(blocks, &mut plain),
        other => {
            let magic = other.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            return Err(VmlinuxFault::Compression { magic });
        }
    };
    read.map_err(VmlinuxFault::Payload)?;
    if !elf::is_x86_64(&plain) {
        return Err(VmlinuxFault::NoElf);
    }
    Ok(plain)
}

/// LZ4's first frame format, which only kernels still use: blocks of up to 8 MiB, each behind its packed size
/// (`lz4_Frame_format.md`, "Legacy frame"). Behind the last one stands the plain length.
fn lz4_legacy(mut blocks: &[u8], plain: &mut Vec<u8>) -> std::io::Result<usize> {
    const BLOCK: usize = 8 << 20;
    const LENGTH: usize = 4;
    let damaged = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    while blocks.len() > LENGTH {
        let (size, rest) = blocks.split_at(LENGTH);
        let size = size.try_into().map_or(0, u32::from_le_bytes);
        let packed = usize::try_from(size).ok().and_then(|size| rest.get(..size));
        let packed = packed.ok_or_else(|| damaged(format!("a block of {size} bytes is not there")))?;
        let start = plain.len();
        plain.resize(start + BLOCK, 0);
        let written = lz4_flex::block::decompress_into(packed, &mut plain[start..]);
        plain.truncate(start + written.map_err(|err| damaged(err.to_string()))?);
        blocks = &rest[packed.len()..];
    }
    Ok(plain.len())
}

/// The release that a kernel's ELF file names, as `uname -r` prints it.
pub(crate) fn release(vmlinux: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let at = find(vmlinux, BANNER)? + BANNER.len();
    let release = vmlinux.get(at..at + 128)?.split(|byte| *byte == b' ').next()?;
    let text = std::str::from_utf8(release).ok()?;
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-+_~".contains(c);
    (text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(fits)).then(|| text.to_owned())
}

/// The configuration that a kernel carries, if it does.
pub(crate) fn config(vmlinux: &[u8]) -> Option<String> {
    let at = find(vmlinux, CONFIG_BEGIN)? + CONFIG_BEGIN.len();
    let mut text = String::new();
    GzDecoder::new(vmlinux.get(at..)?).take(16 << 20).read_to_string(&mut text).ok()?;
    Some(text)
}

/// `memchr` for words: the first byte is looked for by the fast path of the standard library.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let (first, _) = wanted.split_first()?;
    let mut from = 0;
    while let Some(next) = bytes.get(from..)?.iter().position(|byte| byte == first) {
        if bytes[from + next..].starts_with(wanted) {
            return Some(from + next);
        }
        from += next + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn elf() -> Vec<u8> {
        let mut bytes = vec![0u8; 4096];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        bytes.extend_from_slice(b"xLinux version 6.1.0-9-cloud-amd64 (who@where) #1 SMP");
        bytes.resize(8192, 0);
        bytes.extend_from_slice(CONFIG_BEGIN);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"CONFIG_VIRTIO_PCI=y\n").unwrap();
        bytes.extend_from_slice(&encoder.finish().unwrap());
        bytes.extend_from_slice(b"IKCFG_ED");
        bytes
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0u8; 3 * 512 + 100];
        image[0x1f1] = 2;
        image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&100u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what follows is no part of it");
        image
    }

    #[test]
    fn the_kernel_is_found_whatever_packs_it() {
        let plain = elf();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &plain).unwrap();
        // As the kernel's own build packs it: arch/x86/boot/compressed, scripts/xz_wrap.sh.
        let xz = std::process::Command::new("xz")
            .args(["--check=crc32", "--x86", "--lzma2=", "-c"])
            .arg(file.path())
            .output()
            .unwrap()
            .stdout;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&plain).unwrap();
        let block = lz4_flex::block::compress(&plain);
        let size = u32::try_from(block.len()).unwrap().to_le_bytes();
        let lz4 = [&[0x02, 0x21, 0x4c, 0x18][..], &size, &block].concat();
        for packed in [xz, zstd::encode_all(&plain[..], 1).unwrap(), encoder.finish().unwrap(), lz4] {
            let with_length = [packed.as_slice(), &u32::try_from(plain.len()).unwrap().to_le_bytes()].concat();
            assert!(of_bzimage(&bzimage(&with_length)).unwrap() == plain);
        }
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        assert!(matches!(of_bzimage(b"MZ"), Err(VmlinuxFault::NoBzImage)));
        assert!(
            matches!(of_bzimage(&bzimage(b"BZh91AY")), Err(VmlinuxFault::Compression { magic }) if magic.starts_with("425a68"))
        );
        let text = zstd::encode_all(&b"no kernel"[..], 1).unwrap();
        assert!(matches!(of_bzimage(&bzimage(&text)), Err(VmlinuxFault::NoElf)));
        let packed = zstd::encode_all(&elf()[..], 1).unwrap();
        assert!(matches!(of_bzimage(&bzimage(&packed[..packed.len() / 2])), Err(VmlinuxFault::Payload(_))));
    }

    #[test]
    fn a_kernel_says_its_release_and_its_configuration() {
        assert_eq!(release(&elf()).unwrap(), "6.1.0-9-cloud-amd64");
        assert_eq!(config(&elf()).unwrap(), "CONFIG_VIRTIO_PCI=y\n");
        assert_eq!((release(b"Linux version %s"), config(b"")), (None, None));
    }
}
