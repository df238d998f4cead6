//! System calls that have no safe wrapper in nix: TUN ioctls, pidfd, and what runs between fork and exec.
//!
//! Every function returns the errno as `io::Error`; nothing is retried here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::CloneFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod ioctl {
    //! The codes of `linux/if_tun.h`. TUNSETOWNER and TUNSETPERSIST take their argument by value, as the kernel does.
    use super::size_of;
    nix::ioctl_write_ptr_bad!(tunsetiff, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
    nix::ioctl_write_int_bad!(tunsetpersist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(tunsetowner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));
    nix::ioctl_read_bad!(tungetiff, nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()), libc::ifreq);
}

fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: ifreq is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    Ok(request)
}

/// TUNSETIFF: makes the TAP `name`, or attaches to it. `flags` are IFF_* bits.
pub fn tun_attach(tun: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    let mut request = ifreq(name)?;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `tun` is open and `request` is a whole ifreq that outlives the call.
    unsafe { ioctl::tunsetiff(tun.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// TUNGETIFF: the IFF_* bits that the device really has.
pub fn tun_flags(tun: &File) -> io::Result<libc::c_int> {
    // SAFETY: ifreq is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: `tun` is open and `request` is a whole ifreq that the kernel may write to.
    unsafe { ioctl::tungetiff(tun.as_raw_fd(), &raw mut request) }?;
    // SAFETY: TUNGETIFF fills the flags member of the union.
    Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// TUNSETOWNER: who may attach without CAP_NET_ADMIN.
pub fn tun_set_owner(tun: &File, uid: u32) -> io::Result<()> {
    // SAFETY: the argument is passed by value.
    unsafe { ioctl::tunsetowner(tun.as_raw_fd(), uid.cast_signed()) }?;
    Ok(())
}

/// TUNSETPERSIST: the device outlives this descriptor.
pub fn tun_set_persist(tun: &File) -> io::Result<()> {
    // SAFETY: the argument is passed by value.
    unsafe { ioctl::tunsetpersist(tun.as_raw_fd(), 1) }?;
    Ok(())
}

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers a descriptor with the runtime, to be told when it is readable.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, stays the same descriptor and is closed only when the AsyncFd drops it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo means the same as kill(2).
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a child does before exec: enter `netns`, and (if `detach`) a session of its own with no inherited descriptor.
pub fn before_exec(netns: Option<OwnedFd>, detach: bool) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    // Only async-signal-safe system calls below: no allocation, no lock.
    move || {
        if let Some(netns) = &netns {
            nix::sched::setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        if detach {
            nix::unistd::setsid()?;
            // SAFETY: no memory is passed. Marks instead of closing, because std reports exec errors through a pipe of its own.
            let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Adds [`before_exec`] to a command of std.
pub fn enter_before_exec(command: &mut std::process::Command, netns: Option<OwnedFd>, detach: bool) {
    use std::os::unix::process::CommandExt;
    // SAFETY: `before_exec` does nothing but async-signal-safe system calls.
    unsafe { command.pre_exec(before_exec(netns, detach)) };
}

/// Adds [`before_exec`] to a command of tokio.
pub fn enter_before_exec_async(command: &mut tokio::process::Command, netns: OwnedFd) {
    // SAFETY: `before_exec` does nothing but async-signal-safe system calls.
    unsafe { command.pre_exec(before_exec(Some(netns), false)) };
}
