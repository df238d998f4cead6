//! Files that the tool needs before it starts, written as its user's own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use airlock_protocol::accounts::Account;
use airlock_protocol::login::PlacedFile;

/// Writes every file below the account's home directory; returns the first that could not be, and why.
pub fn place(account: &Account, files: &[PlacedFile]) -> Result<(), (String, io::Error)> {
    let home = Path::new(&account.home);
    files.iter().try_for_each(|file| write(home, account, file).map_err(|error| (file.path.clone(), error)))
}

fn write(home: &Path, account: &Account, file: &PlacedFile) -> io::Result<()> {
    let target = home.join(&file.path);
    let mut missing: Vec<PathBuf> = Vec::new();
    for dir in target.ancestors().skip(1).take_while(|dir| *dir != home && !dir.exists()) {
        missing.push(dir.to_owned());
    }
    for dir in missing.iter().rev() {
        fs::create_dir(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        chown(dir, Some(account.uid), Some(account.gid))?;
    }
    // Never through a link that the image or an earlier attempt left there.
    match fs::remove_file(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&target)?;
    new.write_all(file.content.as_bytes())?;
    new.set_permissions(fs::Permissions::from_mode(file.mode))?;
    chown(&target, Some(account.uid), Some(account.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_the_user_s_with_its_mode_and_never_written_through_a_link() {
        let home = std::env::temp_dir().join(format!("airlock-place-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        let elsewhere = home.join("elsewhere");
        fs::write(&elsewhere, "untouched").unwrap();
        symlink(&elsewhere, home.join("linked")).unwrap();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let account = Account { name: "u".into(), uid, gid, home: home.display().to_string(), groups: Vec::new() };
        let file = |path: &str, mode| PlacedFile { path: path.into(), mode, content: "a = 1\n".into() };
        let placed = place(&account, &[file(".tool/deep/config.toml", 0o640), file("linked", 0o600)]);
        let read = |path: &str| fs::read_to_string(home.join(path)).unwrap();
        let mode = |path: &str| fs::metadata(home.join(path)).unwrap().permissions().mode() & 0o777;
        let seen = (read(".tool/deep/config.toml"), read("linked"), read("elsewhere"));
        let modes = (mode(".tool/deep/config.toml"), mode(".tool"), mode("linked"));
        let refused = place(&account, &[file("elsewhere/x", 0o600)]).unwrap_err().0;
        fs::remove_dir_all(&home).unwrap();
        assert!(placed.is_ok(), "{placed:?}");
        assert_eq!(seen, ("a = 1\n".into(), "a = 1\n".into(), "untouched".into()));
        assert_eq!((modes, refused.as_str()), ((0o640, 0o700, 0o600), "elsewhere/x"));
    }
}
