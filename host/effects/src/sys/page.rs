//! A page of memory for one secret: locked into RAM, left out of core dumps, not inherited by children, wiped before it is given
//! back.

use std::io;
use std::ptr::NonNull;

use zeroize::Zeroize;

/// See the head of this file.
pub struct SecretPage {
    start: NonNull<u8>,
    len: usize,
    locked: bool,
}

// SAFETY: the page belongs to this value alone, and is changed only through `&mut`.
unsafe impl Send for SecretPage {}
// SAFETY: shared references only read.
unsafe impl Sync for SecretPage {}

impl SecretPage {
    /// A page of zeroes. One that cannot be locked (RLIMIT_MEMLOCK) is used all the same: see [`Self::is_locked`].
    pub fn new() -> io::Result<Self> {
        // SAFETY: asks for a number.
        let len = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        let start = (mapped != libc::MAP_FAILED).then(|| NonNull::new(mapped.cast::<u8>())).flatten();
        let start = start.ok_or_else(io::Error::last_os_error)?;
        let mut page = Self { start, len, locked: false };
        for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
            // SAFETY: the range is exactly the mapping made above.
            if unsafe { libc::madvise(mapped, len, advice) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: the range is exactly the mapping made above.
        page.locked = unsafe { libc::mlock(mapped, len) } == 0;
        Ok(page)
    }

    /// Whether the page never leaves RAM.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Everything in it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `self` and is initialized (zeroes).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Everything in it, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for SecretPage {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: the mapping is this value's own and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
