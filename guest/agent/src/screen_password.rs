//! The password of the RFB server, in the file that the server reads when somebody wants in.
//!
//! The file is replaced whole and belongs to the display's user alone. The directory is root's, so nobody can put a link
//! there. What fails is the caller's to say: the server then lets nobody in.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::PathBuf;

use airlock_protocol::accounts::Account;
use airlock_protocol::paths::GUEST_VNC_PASSWORD;
use airlock_protocol::{Sensitive, vnc_auth};

const OWNER_ONLY: u32 = 0o600;

/// Where the password goes.
#[derive(Debug, Clone)]
pub struct ScreenPassword {
    path: PathBuf,
    user: String,
}

impl ScreenPassword {
    /// Of the guest's display, which `user` runs.
    pub fn of_guest(user: &str) -> Self {
        Self::at(GUEST_VNC_PASSWORD.into(), user)
    }

    /// In a file of its own.
    pub fn at(path: PathBuf, user: &str) -> Self {
        Self { path, user: user.to_owned() }
    }

    /// Whoever knows `password` gets in from now on.
    pub fn set(&self, password: &Sensitive) -> io::Result<()> {
        let account = Account::look_up(&self.user, |path| fs::read_to_string(path))?;
        let new = self.path.with_extension("new");
        // One of a life that ended too early.
        let _ = fs::remove_file(&new);
        let file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&new)?;
        self.fill(file, password, &account).and_then(|()| fs::rename(&new, &self.path))
    }

    fn fill(&self, mut file: File, password: &Sensitive, account: &Account) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
        fchown(&file, Some(account.uid), Some(account.gid))?;
        file.write_all(&vnc_auth::password_file(password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_file_is_the_owners_alone_and_replaced_whole() {
        let dir = std::env::temp_dir().join(format!("airlock-screen-password-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("vnc.passwd");
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap();
        let screen = ScreenPassword::at(path.clone(), &user.name);
        fs::write(path.with_extension("new"), "left by another life").unwrap();
        for password in ["airlock1", "abc"] {
            let password = Sensitive::new(password);
            screen.set(&password).unwrap();
            assert_eq!(fs::read(&path).unwrap(), vnc_auth::password_file(&password));
            let seen = fs::metadata(&path).unwrap();
            assert_eq!((seen.mode() & 0o7777, seen.uid()), (0o600, user.uid.as_raw()));
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing else is left");
        assert!(ScreenPassword::at(path, "nobody-of-this-name").set(&Sensitive::new("x")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
