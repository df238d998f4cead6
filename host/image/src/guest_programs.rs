//! The guest programs this build carries: init, agent and their companions, static, embedded by the build script.

include!(concat!(env!("OUT_DIR"), "/guest_programs.rs"));

/// Hash of the guest sources; init and agent report the same value.
pub const BUILD_ID: &str = env!("AIRLOCK_BUILD_ID");

/// Name of the program that becomes `/init` of the initramfs.
pub const INIT: &str = "airlock-init";
/// Name of the in-guest service.
pub const AGENT: &str = "airlock-agent";

/// One embedded program.
#[derive(Debug, Clone, Copy)]
pub struct GuestProgram {
    /// File name.
    pub name: &'static str,
    /// The ELF file.
    pub bytes: &'static [u8],
}

/// Guest programs of one build.
#[derive(Debug, Clone, Copy)]
pub struct GuestSet {
    /// What init and agent say that they are.
    pub build_id: &'static str,
    /// By name.
    pub programs: &'static [GuestProgram],
}

impl GuestSet {
    /// The programs that this library carries.
    pub fn embedded() -> Self {
        Self { build_id: BUILD_ID, programs: guest_programs() }
    }
}

/// Every embedded program, by name.
pub fn guest_programs() -> &'static [GuestProgram] {
    PROGRAMS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_and_agent_are_here_and_static() {
        for name in [INIT, AGENT] {
            let program = guest_programs().iter().find(|program| program.name == name).unwrap();
            assert_eq!(crate::elf::check_static(program.bytes), Ok(()));
        }
        assert_eq!(BUILD_ID.len(), 16);
    }
}
