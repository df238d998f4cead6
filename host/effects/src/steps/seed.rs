//! A seed drive as bytes: a FAT file system with cloud-init's files, found by its label. The same files give the same bytes.

use std::io::{self, Cursor, Write};

use airlock_domain::seed::{LABEL, Seed};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};

/// Room for files of a few hundred bytes, and far more.
const SIZE: usize = 256 << 10;
/// Of no meaning; one number for all keeps the bytes the same.
const VOLUME_ID: u32 = 0xA117_10C0;

/// The drive.
pub(super) fn image(seed: &Seed) -> io::Result<Vec<u8>> {
    let mut label = [b' '; 11];
    label.iter_mut().zip(LABEL.bytes()).for_each(|(place, letter)| *place = letter);
    let mut bytes = vec![0; SIZE];
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat12).volume_id(VOLUME_ID).volume_label(label);
    format_volume(Cursor::new(bytes.as_mut_slice()), options)?;
    {
        // Without a clock every file is of 1980.
        let drive = FileSystem::new(Cursor::new(bytes.as_mut_slice()), FsOptions::new().update_accessed_date(false))?;
        for (name, content) in seed.files() {
            let mut file = drive.root_dir().create_file(name)?;
            file.write_all(content.as_bytes())?;
            file.flush()?;
        }
        drive.unmount()?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn seed() -> Seed {
        Seed {
            meta_data: "instance-id: i\n".into(),
            user_data: "#cloud-config\n{}\n".into(),
            network_config: "{\"version\": 2}\n".into(),
        }
    }

    #[test]
    fn other_programs_find_label_and_files_and_the_bytes_are_always_the_same() {
        let bytes = image(&seed()).unwrap();
        assert_eq!(bytes, image(&seed()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        std::fs::write(&path, &bytes).unwrap();
        let out = Command::new("blkid").args(["-p", "-o", "export"]).arg(&path).output().unwrap();
        let facts = String::from_utf8(out.stdout).unwrap();
        assert!(facts.lines().any(|line| line == "LABEL=cidata"), "{facts}");
        assert!(facts.lines().any(|line| line == "TYPE=vfat"), "{facts}");
        let mut bytes = bytes;
        let drive = FileSystem::new(Cursor::new(bytes.as_mut_slice()), FsOptions::new()).unwrap();
        for (name, content) in seed().files() {
            let mut text = String::new();
            io::Read::read_to_string(&mut drive.root_dir().open_file(name).unwrap(), &mut text).unwrap();
            assert_eq!(text, content, "{name}");
        }
    }
}
