//! The host's memory.

/// As `/proc/meminfo` has it (proc(5)), in MiB; zeros where it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// All of it.
    pub total_mib: u64,
    /// What could be given to a new process without swapping.
    pub available_mib: u64,
}

impl Memory {
    /// Reads it.
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mib = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() / 1024
        };
        Self { total_mib: mib("MemTotal"), available_mib: mib("MemAvailable") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let text = "MemTotal:       25165824 kB\nMemFree:  1 kB\nMemAvailable:   20971520 kB\n";
        assert_eq!(Memory::parse(text), Memory { total_mib: 24_576, available_mib: 20_480 });
        assert_eq!(Memory::parse(""), Memory::default());
        assert!(Memory::read().available_mib > 0);
    }
}
