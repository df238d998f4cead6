//! What `airlock image build` makes an image from, and what the caller wants to be different from the recipe.

use std::path::PathBuf;

use airlock_image::{KernelFile, LoadedRecipe, RootSource};
use airlock_protocol::guest_config::RootFs;
use clap::{Args, ValueEnum};

use crate::failure::{Failure, Outcome, USAGE};

/// Source, kernel and filesystem.
#[derive(Debug, Clone, Args)]
pub struct Source {
    /// An OCI image instead of a recipe: a file of docker save, an oci-archive, a layout's directory, or REGISTRY/NAME:TAG
    #[arg(long, value_name = "REF", conflicts_with = "rootfs_tar")]
    oci: Option<String>,
    /// A tar of a whole root instead of a recipe: plain, gzip, zstd or xz
    #[arg(long, value_name = "FILE")]
    rootfs_tar: Option<PathBuf>,
    /// Name of the image [default: made of REF or FILE]
    #[arg(short = 'o', long = "name", value_name = "NAME")]
    name: Option<String>,
    /// A kernel (ELF vmlinux or bzImage) instead of the recipe's package
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Directory with modules.dep of that kernel's release
    #[arg(long, value_name = "DIR", requires = "kernel")]
    kernel_modules: Option<PathBuf>,
    /// Filesystem of the root [default: the recipe's, mostly erofs]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Size of an ext4 root, e.g. 8G; unused room costs nothing [default: as small as possible]
    #[arg(long, value_name = "SIZE", value_parser = mib)]
    size: Option<u64>,
    #[command(flatten)]
    room: Room,
}

/// What the machine gets.
#[derive(Debug, Clone, Args)]
pub struct Room {
    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Virtual CPUs of the machine
    #[arg(long, value_name = "COUNT")]
    cpus: Option<u8>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Erofs,
    Ext4,
}

impl Room {
    /// The recipe with this room.
    pub fn apply(&self, mut loaded: LoadedRecipe) -> LoadedRecipe {
        loaded.recipe.memory_mib = self.memory.unwrap_or(loaded.recipe.memory_mib);
        loaded.recipe.vcpus = self.cpus.unwrap_or(loaded.recipe.vcpus);
        loaded
    }
}

impl Source {
    /// Whether anything but recipes as they are is wanted.
    pub fn changes_something(&self) -> bool {
        let source = self.oci.is_some() || self.rootfs_tar.is_some() || self.name.is_some() || self.kernel.is_some();
        source || self.format.is_some() || self.size.is_some() || self.room.memory.is_some() || self.room.cpus.is_some()
    }

    /// What is to be built.
    pub fn recipes(&self, named: &[String]) -> Outcome<Vec<LoadedRecipe>> {
        let name = |source: &str| self.name.clone().unwrap_or_else(|| LoadedRecipe::name_of(source));
        let mut all = match (&self.oci, &self.rootfs_tar) {
            (Some(reference), _) => vec![LoadedRecipe::foreign(&name(reference), RootSource::Oci(reference.clone()))?],
            (None, Some(file)) => {
                vec![LoadedRecipe::foreign(&name(&file.to_string_lossy()), RootSource::Tar(file.clone()))?]
            }
            (None, None) => named.iter().map(|recipe| LoadedRecipe::load(recipe)).collect::<Result<_, _>>()?,
        };
        if self.name.is_some() && all.len() > 1 {
            return Err(Failure::new(
                USAGE,
                "usage",
                "one name for several images",
                "build them one by one, or leave --name out",
            ));
        }
        for loaded in &mut all {
            if let Some(name) = &self.name {
                loaded.recipe.name.clone_from(name);
            }
            if let Some(path) = &self.kernel {
                loaded.kernel = Some(KernelFile { path: path.clone(), modules: self.kernel_modules.clone() });
            }
            loaded.recipe.root_fs = match (self.format, self.size) {
                (Some(Format::Erofs), _) => RootFs::Erofs,
                // Only ext4 has a size of its own.
                (Some(Format::Ext4), _) | (None, Some(_)) => RootFs::Ext4,
                (None, None) => loaded.recipe.root_fs,
            };
            loaded.recipe.root_size_mib = self.size.or(loaded.recipe.root_size_mib);
            loaded.check()?;
        }
        Ok(all.into_iter().map(|loaded| self.room.apply(loaded)).collect())
    }
}

/// `8G`, `512M`, or a number of MiB.
fn mib(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size; 8G, 512M and 512 are"))?;
    number.checked_mul(factor).filter(|mib| *mib > 0).ok_or_else(|| format!("{text:?} is no size of a filesystem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(["8G", "512M", "64"].map(|text| mib(text).unwrap()), [8192, 512, 64]);
        for bad in ["", "G", "0", "8T", "-1", "99999999999999999999G", "18446744073709551615G"] {
            assert!(mib(bad).is_err(), "{bad}");
        }
    }
}
