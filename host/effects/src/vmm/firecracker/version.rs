//! Which versions of Firecracker are driven: 1.16.1 and newer of the 1.x line.

/// What would do, for errors.
pub const WANTED: &str = "Firecracker 1.16.1 or newer of 1.x";
/// The oldest one, behind `1.`.
const OLDEST: (u32, u32) = (16, 1);

/// The version in the first line of `--version` (`Firecracker v1.16.1`, `Jailer v1.16.1`).
pub fn said(line: &str, program: &str) -> Option<String> {
    let (name, version) = line.trim().split_once(" v")?;
    (name == program).then(|| version.to_owned())
}

/// Whether a version is driven. What follows the number (`1.17.0-dev`) does not count.
pub fn is_driven(version: &str) -> bool {
    let number = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Option<Vec<u32>> = number.split('.').map(|part| part.parse().ok()).collect();
    matches!(parts.as_deref(), Some([1, minor, patch]) if (*minor, *patch) >= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_1_16_1_is_driven_and_nothing_else() {
        for good in ["1.16.1", "1.16.2", "1.17.0", "1.17.0-dev", "1.100.0"] {
            assert!(is_driven(good), "{good}");
        }
        for bad in ["1.16.0", "1.15.9", "0.25.2", "2.0.0", "1.16", "1.16.1.1", "", "1.x.1"] {
            assert!(!is_driven(bad), "{bad}");
        }
    }

    #[test]
    fn a_version_is_read_of_the_right_program_only() {
        assert_eq!(said("Firecracker v1.16.1\n", "Firecracker").as_deref(), Some("1.16.1"));
        assert_eq!(said("Jailer v1.16.1", "Firecracker"), None);
        assert_eq!(said("true", "Firecracker"), None);
    }
}
