//! Decides, from the recipe alone, what is fetched and how it is keyed in the cache. Pure: nothing here runs anything.
//!
//! A key covers all inputs of what it names and nothing else: another agent changes neither key, another service
//! changes neither key, another package changes only the root's.

use airlock_protocol::guest_config::RootFs;
use serde::Serialize;

use crate::digest;
use crate::error::ImageError;
use crate::recipe::{Base, LoadedRecipe};
use crate::source::Origin;
use crate::tool::ToolRun;

/// Changes whenever the builder would make something else of the same recipe.
const BUILDER_VERSION: u32 = 3;

/// What documentation costs is not worth its bytes in a machine that lives for minutes.
const LEFT_OUT: &[&str] = &[
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
    "/usr/share/help/*",
];

/// What a build has to make, unless the cache has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BuildPlan {
    /// Cache entry of kernel and modules.
    pub(crate) kernel_entry: String,
    /// Cache entry of the root filesystem.
    pub(crate) rootfs_entry: String,
    /// UUID of the root filesystem.
    pub(crate) rootfs_uuid: String,
}

impl BuildPlan {
    /// The plan of a recipe.
    pub(crate) fn new(loaded: &LoadedRecipe) -> Result<Self, ImageError> {
        let recipe = &loaded.recipe;
        let modules = recipe.initramfs_modules();
        let kernel = key(&("kernel with vmlinux", &recipe.suite, &recipe.kernel_package, &modules))?;
        let contents: Vec<String> = loaded.contents.iter().map(|content| digest::of_bytes(content)).collect();
        let files: Vec<_> = recipe.files.iter().zip(&contents).map(|(f, c)| (&f.path, f.mode, &f.owner, c)).collect();
        let base = (
            match recipe.base {
                Base::Minimal => "rootfs",
                Base::Nothing => "rootfs of nothing",
            },
            &recipe.suite,
            &recipe.packages,
            &recipe.users,
            files,
            &recipe.run,
            recipe.epoch,
            LEFT_OUT,
        );
        let format = (&recipe.npm, recipe.root_fs, recipe.root_size_mib);
        let plain = recipe.npm.is_empty() && recipe.root_fs == RootFs::Erofs;
        let rootfs = if plain { key(&base)? } else { key(&(base, format))? };
        let kernel_entry = format!("kernel-{}", &kernel[..16]);
        Ok(Self { kernel_entry, rootfs_entry: entry(&rootfs), rootfs_uuid: uuid(&rootfs) })
    }

    /// The same plan with a kernel file of this digest.
    pub(crate) fn with_kernel(mut self, loaded: &LoadedRecipe, sha256: &str) -> Result<Self, ImageError> {
        let modules = loaded.kernel.as_ref().and_then(|kernel| kernel.modules.as_ref());
        let key = key(&("kernel file", sha256, modules, loaded.recipe.initramfs_modules()))?;
        self.kernel_entry = format!("kernel-{}", &key[..16]);
        Ok(self)
    }

    /// The same plan with a foreign root.
    pub(crate) fn with_root(mut self, loaded: &LoadedRecipe, origin: &Origin) -> Result<Self, ImageError> {
        let recipe = &loaded.recipe;
        let key = key(&("foreign root", origin.identity(), recipe.epoch, recipe.root_fs, recipe.root_size_mib))?;
        self.rootfs_entry = entry(&key);
        self.rootfs_uuid = uuid(&key);
        Ok(self)
    }
}

fn entry(key: &str) -> String {
    format!("rootfs-{}", &key[..16])
}

fn uuid(key: &str) -> String {
    format!("{}-{}-{}-{}-{}", &key[..8], &key[8..12], &key[12..16], &key[16..20], &key[20..32])
}

fn key(inputs: &impl Serialize) -> Result<String, ImageError> {
    let bytes = serde_json::to_vec(&(BUILDER_VERSION, std::env::consts::ARCH, inputs)).map_err(ImageError::Encode)?;
    Ok(digest::of_bytes(&bytes))
}

/// Unpacks the kernel package and what it depends on into `target`, running none of their scripts.
pub(crate) fn fetch_kernel(loaded: &LoadedRecipe, target: &str, temporary: &str) -> ToolRun {
    debootstrap(loaded, temporary, "extract", std::slice::from_ref(&loaded.recipe.kernel_package), &[], target)
}

/// Installs (or, on no base, unpacks) the recipe's packages into `target`.
pub(crate) fn install_packages(loaded: &LoadedRecipe, target: &str, temporary: &str) -> ToolRun {
    let variant = match loaded.recipe.base {
        Base::Minimal => "minbase",
        Base::Nothing => "extract",
    };
    debootstrap(loaded, temporary, variant, &loaded.recipe.packages, LEFT_OUT, target)
}

fn debootstrap(
    loaded: &LoadedRecipe,
    temporary: &str,
    variant: &str,
    packages: &[String],
    left_out: &[&str],
    target: &str,
) -> ToolRun {
    let mut args = vec!["--mode=root".to_owned(), format!("--variant={variant}"), "--format=directory".to_owned()];
    args.push("--aptopt=Acquire::Languages \"none\"".to_owned());
    args.push("--aptopt=Acquire::Retries \"3\"".to_owned());
    args.extend(left_out.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    if !packages.is_empty() {
        args.push(format!("--include={}", packages.join(",")));
    }
    args.extend([loaded.recipe.suite.clone(), target.to_owned()]);
    let mut run = ToolRun::new("mmdebstrap", args);
    run.env = vec![
        ("SOURCE_DATE_EPOCH".to_owned(), loaded.recipe.epoch.to_string()),
        ("TMPDIR".to_owned(), temporary.to_owned()),
    ];
    run.network = true;
    run.writes = target.into();
    run
}

/// Writes the root directory as an uncompressed erofs: under emulation decompression costs more than it saves.
pub(crate) fn write_erofs(loaded: &LoadedRecipe, uuid: &str, image: &str, root: &str) -> ToolRun {
    let epoch = format!("-T{}", loaded.recipe.epoch);
    let mut run = ToolRun::new("mkfs.erofs", ["--quiet", &epoch, &format!("-U{uuid}"), image, root]);
    run.writes = image.into();
    run
}

/// Installs npm packages for everybody, with the host's npm, and runs none of their scripts.
pub(crate) fn install_npm(loaded: &LoadedRecipe, cache: &str, root: &str) -> ToolRun {
    let mut args: Vec<String> =
        ["install", "--global", "--ignore-scripts", "--no-audit", "--no-fund"].map(str::to_owned).into();
    args.extend(
        ["--no-update-notifier", "--loglevel=error", "--fetch-retries=2", "--os=linux", "--cpu=x64"].map(str::to_owned),
    );
    args.extend([format!("--prefix={root}/usr/local"), format!("--cache={cache}")]);
    args.extend(loaded.recipe.npm.iter().cloned());
    let mut run = ToolRun::new("npm", args);
    run.network = true;
    run.writes = root.into();
    run
}

/// What a command of a recipe finds around it: processes, the harmless devices, empty directories for what does not last.
/// The mounts are in the tool's own namespace and go with it.
const ENTER_ROOT: &str = r#"
root=$1; shift
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 dev "$root/dev"
for node in null zero full random urandom; do
  : > "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=0755 run "$root/run"
exec chroot "$root" "$@"
"#;

/// Runs one command of the recipe in the root.
pub(crate) fn run_in_root(loaded: &LoadedRecipe, command: &[String], root: &str) -> ToolRun {
    let enter = ["-euc", ENTER_ROOT, "sh", root].map(str::to_owned);
    let mut run = ToolRun::new("sh", enter.into_iter().chain(command.iter().cloned()));
    run.env = vec![("SOURCE_DATE_EPOCH".to_owned(), loaded.recipe.epoch.to_string())];
    run.writes = root.into();
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(change: impl FnOnce(&mut LoadedRecipe)) -> BuildPlan {
        let mut loaded = LoadedRecipe::load("base").unwrap();
        change(&mut loaded);
        BuildPlan::new(&loaded).unwrap()
    }

    #[test]
    fn keys_change_with_their_inputs_and_nothing_else() {
        let plain = base(|_| {});
        assert_eq!(plain, base(|_| {}));
        let service = base(|loaded| {
            loaded.recipe.memory_mib += 1;
            loaded.recipe.services.clear();
            loaded.recipe.display = None;
        });
        assert_eq!(plain, service);
        let package = base(|loaded| loaded.recipe.packages.push("zsh".into()));
        assert_eq!(plain.kernel_entry, package.kernel_entry);
        assert_ne!(plain.rootfs_entry, package.rootfs_entry);
        let format = base(|loaded| loaded.recipe.root_fs = RootFs::Ext4);
        assert_ne!(plain.rootfs_entry, format.rootfs_entry);
        let npm = base(|loaded| loaded.recipe.npm.push("a@1.0.0".into()));
        assert_ne!(plain.rootfs_entry, npm.rootfs_entry);
        assert_eq!(plain.kernel_entry, npm.kernel_entry);
        let module = base(|loaded| loaded.recipe.modules.push("btrfs".into()));
        assert_ne!(plain.kernel_entry, module.kernel_entry);
        assert_eq!(plain.rootfs_entry, module.rootfs_entry);
    }

    #[test]
    fn packages_are_one_argument() {
        let mut loaded = LoadedRecipe::load("base").unwrap();
        loaded.recipe.packages = vec!["a".into(), "b".into()];
        let run = install_packages(&loaded, "/root-dir", "/tmp-dir");
        assert!(run.args.contains(&"--include=a,b".to_owned()));
        assert_eq!(run.args.last().map(String::as_str), Some("/root-dir"));
        assert!(run.network);
        assert!(!run_in_root(&loaded, &["/bin/true".into()], "/root-dir").network);
    }
}
