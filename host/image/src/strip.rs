//! Takes off kernel modules what costs time when they are loaded and gives nothing here: the signature, whose check is most of
//! the load under emulation, and the type information that only BPF programs read.
//!
//! An image's modules are covered by its manifest's digests already. A module that is not what this expects stays as it is.

/// Ends a signed module (`MODULE_SIG_STRING`, include/linux/module_signature.h).
const MARK: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`; its last four bytes are the signature's length, big-endian.
const TRAILER: usize = 12;
/// A kernel with this refuses a module without signature.
const ENFORCED: &str = "CONFIG_MODULE_SIG_FORCE=y";

/// Whether a kernel of this configuration loads modules without a signature.
pub(crate) fn is_allowed(config: &str) -> bool {
    !config.lines().any(|line| line == ENFORCED)
}

/// The module without signature and type information.
pub(crate) fn strip(mut module: Vec<u8>) -> Vec<u8> {
    if let Some(len) = unsigned_len(&module) {
        module.truncate(len);
    }
    // The kernel looks for the section by its name.
    if let Some(at) = section_name_at(&module, b".BTF")
        && let Some(first) = module.get_mut(at)
    {
        *first = b'_';
    }
    module
}

/// Where the name of a section stands in the file (System V ABI, ELF-64: e_shoff at 40, e_shentsize at 58, e_shstrndx at 62).
fn section_name_at(elf: &[u8], name: &[u8]) -> Option<usize> {
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let word = |at: usize| usize::try_from(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok();
    let header = word(40)?.checked_add(half(58)?.checked_mul(half(62)?)?)?;
    let (offset, size) = (word(header.checked_add(24)?)?, word(header.checked_add(32)?)?);
    let names = elf.get(offset..offset.checked_add(size)?)?;
    let wanted = [b"\0", name, b"\0"].concat();
    names.windows(wanted.len()).position(|window| window == wanted).map(|at| offset + at + 1)
}

fn unsigned_len(module: &[u8]) -> Option<usize> {
    let signed = module.strip_suffix(MARK)?;
    let trailer = signed.len().checked_sub(TRAILER)?;
    let len = u32::from_be_bytes(signed.get(trailer + 8..)?.try_into().ok()?);
    trailer.checked_sub(usize::try_from(len).ok()?)
}

/// File names of modules and their contents.
pub(crate) type Modules = Vec<(String, Vec<u8>)>;

/// The modules that the network needs, and those that can wait until it is up; each in the order given, which is a load order.
pub(crate) fn network_first(modules: Modules) -> (Modules, Modules) {
    const NETWORK: [&str; 3] = ["virtio_net", "virtio_pci", "virtio_mmio"];
    let mut needed: Vec<String> = NETWORK.map(str::to_owned).into();
    let mut next = 0;
    while let Some(name) = needed.get(next).cloned() {
        next += 1;
        let module = modules.iter().find(|(file, _)| crate::modules::normalize(file) == name);
        for dependency in module.map(|(_, bytes)| dependencies(bytes)).unwrap_or_default() {
            if !needed.contains(&dependency) {
                needed.push(dependency);
            }
        }
    }
    modules.into_iter().partition(|(file, _)| needed.contains(&crate::modules::normalize(file)))
}

/// What a module says itself that it depends on (`depends=a,b` in its `.modinfo`).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let start = module.windows(KEY.len()).position(|window| window == KEY).map(|at| at + KEY.len());
    let value = start.and_then(|start| module.get(start..)?.split(|byte| *byte == 0).next()).unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(crate::modules::normalize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_off_and_nothing_else() {
        let plain = b"\x7fELF and so on".to_vec();
        let mut signed = plain.clone();
        signed.extend_from_slice(b"signature");
        signed.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        signed.extend_from_slice(MARK);
        assert_eq!(strip(signed.clone()), plain);
        assert_eq!(strip(plain.clone()), plain);
        // A length that cannot be.
        let at = signed.len() - MARK.len() - 4;
        signed[at] = 0xff;
        assert_eq!(strip(signed.clone()), signed);
    }

    #[test]
    fn a_section_loses_its_name() {
        // A header, one section header (the names' own), the names.
        let mut elf = vec![0; 64];
        elf[40] = 64;
        elf[58] = 64;
        let mut section = vec![0; 64];
        (section[24], section[32]) = (128, 23);
        elf.extend(section);
        elf.extend_from_slice(b"\0.text\0.BTF_ids\0.BTF\0\0\0");
        let stripped = strip(elf.clone());
        assert!(stripped.ends_with(b"\0.text\0.BTF_ids\0_BTF\0\0\0"));
        assert_eq!(strip(elf[..100].to_vec()), elf[..100]);
    }

    #[test]
    fn a_kernel_that_wants_signatures_gets_them() {
        assert!(is_allowed("CONFIG_MODULE_SIG=y\n# CONFIG_MODULE_SIG_FORCE is not set\n"));
        assert!(!is_allowed("CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n"));
    }

    #[test]
    fn what_the_network_needs_goes_first() {
        let module = |name: &str, depends: &str| {
            (format!("{name}.ko"), format!("license=GPL\0depends={depends}\0name={name}\0").into_bytes())
        };
        let all = vec![
            module("virtio_ring", ""),
            module("virtio", "virtio_ring"),
            module("virtio_pci", "virtio,virtio_ring"),
            module("virtio_blk", "virtio,virtio_ring"),
            module("failover", ""),
            module("virtio-net", "virtio,failover"),
            module("erofs", "libcrc32c"),
        ];
        let (first, later) = network_first(all);
        let names = |modules: &[(String, Vec<u8>)]| modules.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&first), ["virtio_ring.ko", "virtio.ko", "virtio_pci.ko", "failover.ko", "virtio-net.ko"]);
        assert_eq!(names(&later), ["virtio_blk.ko", "erofs.ko"]);
    }
}
