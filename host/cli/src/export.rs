//! A credential's files, written as its tool expects them below its home: files 0600 or less, directories 0700, each file whole or
//! not at all. What is there stays, unless `--force` says otherwise; a symbolic link is never followed, for whoever made it chose
//! where the secret would land. All is looked at before anything is written, and checked again where it is written.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use airlock_api::credential::CredentialFile;
use airlock_effects::files;

use crate::failure::{FAILED, Failure, Outcome, REFUSED};

/// Refuses a directory that is a symbolic link or no directory. One that does not exist is made later.
pub fn check_directory(dir: &Path) -> Outcome<()> {
    match facts(dir)? {
        None => Ok(()),
        Some(facts) if facts.is_dir() => Ok(()),
        Some(facts) => Err(in_the_way(dir, &facts)),
    }
}

/// Writes every file below `dir`; says where.
pub fn write(dir: &Path, files: &[CredentialFile], force: bool) -> Outcome<Vec<PathBuf>> {
    check_directory(dir)?;
    for file in files {
        check(dir, file, force)?;
    }
    files.iter().map(|file| write_one(dir, file)).collect()
}

/// The path comes from a guest, so it must not lead out; what is on the way is not followed.
fn check(dir: &Path, file: &CredentialFile, force: bool) -> Outcome<()> {
    let relative = Path::new(&file.path);
    let plain =
        relative.components().all(|part| matches!(part, Component::Normal(_))) && relative.file_name().is_some();
    if !plain {
        let message = format!("the credential's path {:?} leads out of the directory", file.path);
        let remedy = "correct the credential path in the provider file";
        return Err(Failure::new(FAILED, "bad_credential_path", message, remedy));
    }
    let mut place = dir.to_owned();
    let parents = relative.parent().into_iter().flat_map(Path::components);
    for part in parents {
        place.push(part);
        check_directory(&place)?;
    }
    let path = dir.join(relative);
    match facts(&path)? {
        None => Ok(()),
        Some(facts) if !facts.is_file() => Err(in_the_way(&path, &facts)),
        Some(_) if force => Ok(()),
        Some(_) => {
            let message = format!("{} is there already", path.display());
            Err(Failure::new(REFUSED, "file_exists", message, "give another directory, or replace it with --force"))
        }
    }
}

fn write_one(dir: &Path, file: &CredentialFile) -> Outcome<PathBuf> {
    let relative = Path::new(&file.path);
    let path = dir.join(relative);
    let mode = (file.mode & 0o600) | 0o400;
    let made = || {
        files::create_private_dir(dir)?;
        let mut place = dir.to_owned();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            place.push(part);
            files::create_private_dir(&place)?;
        }
        files::write_atomic(&path, file.content.expose().as_bytes(), mode)
    };
    made().map_err(|error| {
        let code = error.cause().unwrap_or("export_failed");
        Failure::new(FAILED, code, error.to_string(), "give a directory that can be written").beneath(&error)
    })?;
    Ok(path)
}

fn facts(path: &Path) -> Outcome<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(facts) => Ok(Some(facts)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("look at {}", path.display());
            Err(Failure::new(FAILED, "export_failed", message, "give a directory that can be read").because(&error))
        }
    }
}

fn in_the_way(path: &Path, facts: &Metadata) -> Box<Failure> {
    let what = if facts.is_symlink() { "is a symbolic link" } else { "is in the way" };
    let remedy = "remove it, or give another directory: links are not followed";
    Failure::new(REFUSED, "not_a_plain_path", format!("{} {what}", path.display()), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::Sensitive;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn file(path: &str, mode: u32) -> CredentialFile {
        CredentialFile { path: path.into(), mode, content: Sensitive::new("s3cret") }
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_private_and_below_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let written = write(&to, &[file(".tool/deep/credentials.json", 0o644), file("read", 0o400)], false).unwrap();
        assert_eq!(fs::read_to_string(&written[0]).unwrap(), "s3cret");
        assert_eq!((mode(&written[0]), mode(&written[1])), (0o600, 0o400));
        assert_eq!((mode(&to), mode(&to.join(".tool")), mode(&to.join(".tool/deep"))), (0o700, 0o700, 0o700));
        assert_eq!(fs::read_dir(to.join(".tool/deep")).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_path_never_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/etc/x", "a/../../x", "", "."] {
            assert!(write(dir.path(), &[file(bad, 0o600)], true).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_replaced_unasked_and_nothing_at_all_when_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), "mine").unwrap();
        let both = [file("a", 0o600), file("b", 0o600)];
        let refused = write(dir.path(), &both, false).unwrap_err();
        assert_eq!((refused.exit, refused.detail.code.as_str()), (REFUSED, "file_exists"));
        assert!(!dir.path().join("a").exists());
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "mine");
        write(dir.path(), &both, true).unwrap();
        assert_eq!(
            (fs::read_to_string(dir.path().join("b")).unwrap().as_str(), mode(&dir.path().join("b"))),
            ("s3cret", 0o600)
        );
    }

    #[test]
    fn a_link_is_not_followed_even_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let (to, elsewhere) = (dir.path().join("to"), dir.path().join("elsewhere"));
        fs::create_dir(&to).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, to.join(".tool")).unwrap();
        symlink(elsewhere.join("file"), to.join("file")).unwrap();
        symlink(&to, dir.path().join("link")).unwrap();
        for (below, path) in [(&to, ".tool/c.json"), (&to, "file"), (&dir.path().join("link"), "x")] {
            let refused = write(below, &[file(path, 0o600)], true).unwrap_err();
            assert_eq!((refused.exit, refused.detail.code.as_str()), (REFUSED, "not_a_plain_path"), "{path}");
        }
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}
