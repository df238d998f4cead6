//! System calls that have no safe wrapper in nix: TUN ioctls, pidfd, and what runs between fork and exec.
//!
//! Every function returns the errno as `io::Error`; nothing is retried here.
#![allow(unsafe_code)]

pub mod page;
pub mod wiping;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

/// mlockall(2): every page that this process touches from now on stays in RAM, whenever it was or will be mapped.
pub fn lock_all_memory() -> io::Result<()> {
    let what = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: changes where this process's pages are kept, not what they hold.
    if unsafe { libc::mlockall(what) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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

/// Takes over a descriptor that whoever started this process left open, by its number. 0 to 2 stay what they are.
pub fn take_inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: asks about a number; no memory is passed.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and was named to this process for this one use: nobody else here has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// getrandom(2): how many bytes were filled.
pub fn getrandom(bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the length of the slice.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    usize::try_from(filled).map_err(|_| io::Error::last_os_error())
}

/// Registers a descriptor with the runtime, to be told when it is readable.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, stays the same descriptor and is closed only when the AsyncFd drops it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// [`readable`], and told as well when it fails.
pub fn readable_or_failed(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::ERROR) }?)
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo means the same as kill(2).
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// posix_spawn(3): a program in a session of its own, in `dir`, with these descriptors as its first three and no others. It has
/// the namespaces of the calling thread, which waits until it has called exec (a failed exec is the error). Unlike fork(2) this
/// copies nothing of the caller, however large it is. Returns the pid, which the caller must reap.
pub fn spawn_session(
    program: &Path,
    args: &[OsString],
    environment: &[OsString],
    dir: &Path,
    stdio: [&OwnedFd; 3],
) -> io::Result<libc::pid_t> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let (program, dir) = (text(program.as_os_str())?, text(dir.as_os_str())?);
    let args: Vec<CString> = args.iter().map(|arg| text(arg)).collect::<io::Result<_>>()?;
    let environment: Vec<CString> = environment.iter().map(|pair| text(pair)).collect::<io::Result<_>>()?;
    let pointers = |texts: &[CString]| -> Vec<*mut libc::c_char> {
        texts.iter().map(|text| text.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&environment));
    // These functions return the errno.
    let check = |errno: libc::c_int| if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) };
    // SAFETY: both are plain data that the init functions below fill.
    let (mut actions, mut attributes) = unsafe {
        (std::mem::zeroed::<libc::posix_spawn_file_actions_t>(), std::mem::zeroed::<libc::posix_spawnattr_t>())
    };
    let mut pid = 0;
    // SAFETY: every pointer is to a value of this function that outlives the call; what is initialized is destroyed on the one
    // way out, and destroying it after a failed init of the other touches zeroes only.
    unsafe {
        let mut spawn = || {
            check(libc::posix_spawn_file_actions_init(&raw mut actions))?;
            check(libc::posix_spawnattr_init(&raw mut attributes))?;
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signals);
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes, &raw const signals))?;
            // Rust ignores it in every process of its own.
            libc::sigaddset(&raw mut signals, libc::SIGPIPE);
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes, &raw const signals))?;
            check(libc::posix_spawnattr_setflags(&raw mut attributes, SPAWN_FLAGS))?;
            check(libc::posix_spawn_file_actions_addchdir_np(&raw mut actions, dir.as_ptr()))?;
            for (wanted, fd) in (0..).zip(stdio) {
                check(libc::posix_spawn_file_actions_adddup2(&raw mut actions, fd.as_raw_fd(), wanted))?;
            }
            check(libc::posix_spawn_file_actions_addclosefrom_np(&raw mut actions, 3))?;
            let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
            check(libc::posix_spawn(
                &raw mut pid,
                program.as_ptr(),
                &raw const actions,
                &raw const attributes,
                argv,
                envp,
            ))
        };
        let spawned = spawn();
        libc::posix_spawn_file_actions_destroy(&raw mut actions);
        libc::posix_spawnattr_destroy(&raw mut attributes);
        spawned?;
    }
    Ok(pid)
}

/// The flags of [`spawn_session`]; the crate has two of them wider than the function takes them.
#[allow(clippy::cast_possible_truncation, reason = "all are below 256")]
const SPAWN_FLAGS: libc::c_short =
    libc::POSIX_SPAWN_SETSID | (libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK) as libc::c_short;

/// Makes a command of tokio enter `netns` before exec.
pub fn enter_before_exec_async(command: &mut tokio::process::Command, netns: OwnedFd) {
    let enter = move || Ok(nix::sched::setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?);
    // SAFETY: setns(2) is async-signal-safe; nothing is allocated and no lock taken.
    unsafe { command.pre_exec(enter) };
}

fn link_address(index: u32, ethertype: u16) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: sockaddr_ll is plain data; all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = libc::c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(address)
}

/// The length of a [`libc::sockaddr_ll`] as system calls take it.
#[allow(clippy::cast_possible_truncation, reason = "20")]
const LINK_ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// bind(2): a packet socket gets the frames of that type that come in through that link, and no others.
pub fn packet_bind(socket: BorrowedFd<'_>, index: u32, ethertype: u16) -> io::Result<()> {
    let address = link_address(index, ethertype)?;
    // SAFETY: `address` is a whole sockaddr_ll that outlives the call, and its length is given.
    let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LINK_ADDRESS_LEN) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// sendto(2): a whole frame leaves a packet socket through that link, whichever it is bound to.
pub fn packet_send(socket: BorrowedFd<'_>, index: u32, ethertype: u16, frame: &[u8]) -> io::Result<()> {
    let address = link_address(index, ethertype)?;
    // SAFETY: the frame and `address` outlive the call, and their lengths are given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const address).cast(),
            LINK_ADDRESS_LEN,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
