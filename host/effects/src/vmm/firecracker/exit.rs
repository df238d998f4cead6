//! What the end of a Firecracker means. It ends with 0 when its guest resets, but also after some internal errors of KVM: only an
//! end that was asked for is expected.

use airlock_domain::vmm::VmmExit;

/// What an exit code says, where it says more than that something went wrong (Firecracker's `FcExitCode`).
pub fn meaning(exit: VmmExit) -> Option<&'static str> {
    Some(match exit.code? {
        0 => "its guest reset or halted, or its KVM gave up: 0 alone is no success",
        148 => "its seccomp filter met a system call that it forbids",
        149 => "a memory access failed (SIGBUS)",
        150 => "a memory access was invalid (SIGSEGV)",
        151 => "a file became too large (SIGXFSZ)",
        152 => "its configuration is wrong",
        153 => "its arguments are wrong",
        154 => "its processor time is used up (SIGXCPU)",
        155 => "a pipe broke (SIGPIPE)",
        156 => "its terminal hung up (SIGHUP)",
        157 => "it met an invalid instruction (SIGILL)",
        _ => return None,
    })
}

/// Whether an end is what was asked for. A kill is ours only if it was ours.
pub fn is_expected(exit: VmmExit, asked: bool) -> bool {
    asked && matches!(exit, VmmExit { code: Some(0), .. } | VmmExit { signal: Some(libc::SIGKILL), .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_expected() {
        let code = |code| VmmExit { code: Some(code), signal: None };
        let signal = |signal| VmmExit { code: None, signal: Some(signal) };
        assert!(is_expected(code(0), true) && is_expected(signal(libc::SIGKILL), true));
        for exit in [code(0), code(1), signal(libc::SIGKILL), signal(libc::SIGSEGV)] {
            assert!(!is_expected(exit, false), "{exit}");
        }
        for exit in [code(148), signal(libc::SIGSEGV), VmmExit { code: None, signal: None }] {
            assert!(!is_expected(exit, true), "{exit}");
        }
        assert!(meaning(code(148)).unwrap().contains("seccomp"));
        assert_eq!(meaning(signal(9)), None);
    }
}
