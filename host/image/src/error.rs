//! Why an image cannot be built, found or trusted. Every error has a stable code and says what to do next.

use std::io;
use std::path::{Path, PathBuf};

use airlock_domain::Cause;
use airlock_protocol::Stage;
use airlock_protocol::guest_config::NetworkOwner;

use crate::elf::ElfFault;
use crate::ext4::Ext4Fault;
use crate::gate::BootFailure;
use crate::modules::UnknownModule;
use crate::oci::OciError;
use crate::preflight::Problem;
use crate::tarball::ArchiveError;
use crate::vmlinux::VmlinuxFault;

/// A failure of the builder or the registry.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No embedded recipe has this name.
    #[error("there is no recipe {name:?}; known are {}", known.join(", "))]
    RecipeUnknown {
        /// The name that was given.
        name: String,
        /// Embedded recipes.
        known: Vec<String>,
    },
    /// The recipe is no TOML of the expected form.
    #[error("parse recipe {recipe}")]
    RecipeMalformed {
        /// Name or path.
        recipe: String,
        /// Where and what; an unknown field is listed with the known ones.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The recipe contradicts itself.
    #[error("recipe {recipe} cannot be built")]
    RecipeInvalid {
        /// Name or path.
        recipe: String,
        /// What is wrong.
        #[source]
        problem: RecipeFault,
    },
    /// A program that builds images is not installed.
    #[error("the program {tool} is not installed")]
    ToolMissing {
        /// Its name.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The build needs root (device nodes, owners of files, chroot).
    #[error("building an image needs root, this is user {uid}")]
    NotRoot {
        /// Effective user id.
        uid: u32,
    },
    /// No space left.
    #[error("no space left to {action} {}", path.display())]
    DiskFull {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// Another build holds the lock, and this one was not to wait.
    #[error("another build runs in this state directory{}", holder(other.as_deref()))]
    BuildRunning {
        /// What holds it, if it said so.
        other: Option<String>,
    },
    /// The image cannot boot, as far as that can be known without a boot.
    #[error("image {image} cannot boot: {}{}", problems.first().map_or("", |problem| &problem.what), more(problems.len()))]
    Preflight {
        /// Name of the recipe.
        image: String,
        /// Everything that is wrong, worst first; never empty.
        problems: Vec<Problem>,
    },
    /// The image does not boot to its readiness contract.
    #[error("image {image} does not boot: {}{}: {}", failure.cause, at(failure.stage), failure.detail)]
    BootTestFailed {
        /// Name of the recipe.
        image: String,
        /// What was found.
        failure: Box<BootFailure>,
    },
    /// The boot test could not be run.
    #[error("test the boot of image {image}")]
    BootTest {
        /// Name of the recipe.
        image: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A session or a machine uses the image.
    #[error("image {image} is in use")]
    ImageInUse {
        /// The image.
        image: String,
    },
    /// The image was never booted, and the configuration asks for that.
    #[error("image {image} is unverified: no boot test stands beside it")]
    ImageUnverified {
        /// The image.
        image: String,
    },
    /// The distribution has no such package.
    #[error("a package of recipe {recipe} cannot be installed: {line}")]
    PackageUnknown {
        /// The recipe.
        recipe: String,
        /// apt's own line.
        line: String,
    },
    /// An archive is refused.
    #[error("archive {archive} is refused")]
    Archive {
        /// Its path.
        archive: String,
        /// Why.
        #[source]
        source: ArchiveError,
    },
    /// An OCI image is refused.
    #[error("OCI image {reference} is refused")]
    Oci {
        /// What was given.
        reference: String,
        /// Why.
        #[source]
        source: Box<OciError>,
    },
    /// A tool ended with an error.
    #[error("{tool} failed ({status}): {}", last_words(tail))]
    ToolFailed {
        /// Its name.
        tool: String,
        /// Exit status.
        status: std::process::ExitStatus,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// The kernel package brought no kernel.
    #[error("package {package} has no /boot/vmlinuz-*")]
    KernelMissing {
        /// The package.
        package: String,
    },
    /// The kernel is not in the form a VMM loads.
    #[error("{} is no bzImage", path.display())]
    KernelFormat {
        /// The file.
        path: PathBuf,
    },
    /// The kernel is to configure the network and cannot.
    #[error("kernel {release} cannot configure the network: {option} is {actual}, not y")]
    KernelOptionMissing {
        /// Kernel release.
        release: String,
        /// The option of its configuration.
        option: &'static str,
        /// What it is set to.
        actual: String,
    },
    /// The kernel cannot be had as an ELF file.
    #[error("take the kernel out of {}", path.display())]
    KernelElf {
        /// The bzImage.
        path: PathBuf,
        /// Why not.
        #[source]
        source: VmlinuxFault,
    },
    /// A root filesystem that is given cannot be mounted as it is.
    #[error("root filesystem {} is refused", path.display())]
    RootRefused {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Ext4Fault,
    },
    /// The root does not fit the size that was asked for.
    #[error("the root needs {needed} bytes and was to have {size}")]
    RootTooSmall {
        /// Wanted bytes.
        size: u64,
        /// Needed bytes.
        needed: u64,
    },
    /// A directory to import lacks a file.
    #[error("{} has none of {}", dir.display(), wanted.join(", "))]
    ImportLacks {
        /// The directory.
        dir: PathBuf,
        /// Names that would do.
        wanted: &'static [&'static str],
    },
    /// A module of the recipe does not exist.
    #[error("kernel {release} lacks a module of the recipe")]
    ModuleMissing {
        /// Kernel release.
        release: String,
        /// Which.
        #[source]
        source: UnknownModule,
    },
    /// An embedded program cannot run as it is.
    #[error("guest program {program} cannot run in the initramfs")]
    GuestProgram {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: ElfFault,
    },
    /// A service's program is not in the image.
    #[error("service {service} runs {program}, which is no executable file of the image")]
    ServiceProgramMissing {
        /// The service.
        service: String,
        /// The program.
        program: String,
    },
    /// The user or number exists in the distribution already.
    #[error("user {name} with number {uid} is already in the image's /etc/passwd")]
    UserExists {
        /// Name.
        name: String,
        /// Number.
        uid: u32,
    },
    /// No such image.
    #[error("there is no image {reference:?}; {}", found(known))]
    ImageMissing {
        /// Name or `name@sha256:digest`.
        reference: String,
        /// What there is.
        known: Vec<String>,
    },
    /// An image lacks one of its files.
    #[error("image {image} lacks {}", path.display())]
    ImageFileMissing {
        /// The image.
        image: String,
        /// The file.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A file is not what the manifest says.
    #[error("image {image}: {file} is corrupt: wanted {wanted}, found {actual}")]
    ImageCorrupt {
        /// The image.
        image: String,
        /// File in the image's directory.
        file: String,
        /// Size or digest by the manifest.
        wanted: String,
        /// Size or digest of the file.
        actual: String,
    },
    /// A manifest cannot be read by this version.
    #[error("parse the manifest of image {image}")]
    ManifestMalformed {
        /// The image.
        image: String,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A record cannot be written as JSON.
    #[error("encode a record of the build")]
    Encode(#[source] serde_json::Error),
    /// The manifest cannot be written as TOML.
    #[error("encode a manifest")]
    EncodeManifest(#[source] toml::ser::Error),
    /// An initramfs entry is too large.
    #[error("write the initramfs")]
    Initramfs(#[from] crate::cpio::EntryTooLarge),
}

impl ImageError {
    /// Wraps an I/O error with what was being done to which path; no space is told apart.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { action, path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// Stable code: the fault catalogue's where it has one.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RecipeUnknown { .. } => "recipe_unknown",
            Self::RecipeMalformed { .. } | Self::RecipeInvalid { .. } | Self::UserExists { .. } => "recipe_invalid",
            Self::ToolMissing { .. } => "build_tool_missing",
            Self::NotRoot { .. } => "build_needs_root",
            Self::DiskFull { .. } => "disk_full",
            Self::Cancelled => "build_cancelled",
            Self::BuildRunning { .. } => "build_running",
            Self::Preflight { problems, .. } => problems.first().map_or("image_build_failed", |problem| problem.code),
            Self::BootTestFailed { .. } => "boot_test_failed",
            Self::BootTest { .. } => "boot_test_not_run",
            Self::ImageInUse { .. } => "image_in_use",
            Self::ImageUnverified { .. } => "image_unverified",
            Self::PackageUnknown { .. } => "package_unknown",
            Self::Archive { source, .. } => source.code(),
            Self::Oci { source, .. } => source.code(),
            Self::KernelMissing { .. } => "kernel_missing",
            Self::KernelFormat { .. } | Self::KernelElf { .. } => "no_console_output",
            Self::RootRefused { .. } => "root_fs_corrupt",
            Self::RootTooSmall { .. } => "root_too_small",
            Self::ImportLacks { .. } => "import_incomplete",
            Self::KernelOptionMissing { .. } => "kernel_option_missing",
            Self::ModuleMissing { .. } => "modules_mismatch",
            Self::GuestProgram { .. } => "guest_program_invalid",
            Self::ServiceProgramMissing { .. } => "service_program_missing",
            Self::ImageMissing { .. } | Self::ImageFileMissing { .. } => "image_missing",
            Self::ImageCorrupt { .. } | Self::ManifestMalformed { .. } => "image_corrupt",
            Self::Io { .. }
            | Self::ToolFailed { .. }
            | Self::Encode(_)
            | Self::EncodeManifest(_)
            | Self::Initramfs(_) => "image_build_failed",
        }
    }

    /// The fault catalogue's cause: of the failed boot, else the one with this error's code.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::BootTestFailed { failure, .. } => Some(failure.cause),
            _ => self.code().parse().ok(),
        }
    }

    /// What to do next.
    pub fn remedy(&self) -> String {
        match self {
            Self::RecipeUnknown { known, .. } => {
                format!("use one of {} or the path of a recipe file", known.join(", "))
            }
            Self::RecipeMalformed { .. } | Self::RecipeInvalid { .. } | Self::UserExists { .. } => {
                "correct the recipe".to_owned()
            }
            Self::ToolMissing { package, .. } => format!("apt-get install {package}"),
            Self::NotRoot { .. } => "run the command as root or through sudo".to_owned(),
            Self::DiskFull { path, .. } => format!("free space on the file system of {}", path.display()),
            Self::Cancelled => "build again: nothing of the cancelled build is left".to_owned(),
            Self::BuildRunning { .. } => {
                "wait for it, or build without --no-wait; airlock image builds shows it".to_owned()
            }
            Self::Preflight { problems, .. } => {
                problems.first().map(|problem| problem.remedy.clone()).unwrap_or_default()
            }
            Self::BootTestFailed { failure, .. } => failure.cause.remedy().to_owned(),
            Self::BootTest { .. } => {
                "run airlock doctor, or build with --no-boot-test: the image is then unverified".to_owned()
            }
            Self::ImageInUse { .. } => "end its sessions first: airlock session ls, airlock vm ls".to_owned(),
            Self::ImageUnverified { image } => {
                format!("airlock image build {}, which boots it", image.split('@').next().unwrap_or(image))
            }
            Self::Archive { source, .. } => source.remedy().to_owned(),
            Self::Oci { source, .. } => source.remedy().to_owned(),
            Self::PackageUnknown { .. } => "correct the package's name or the suite in the recipe".to_owned(),
            Self::RootRefused { path, .. } => {
                format!("unmount it and run e2fsck -f {}, or copy it again", path.display())
            }
            Self::RootTooSmall { needed, .. } => format!("ask for at least {} MiB", needed.div_ceil(1 << 20)),
            Self::ImportLacks { wanted, .. } => format!("put a {} there", wanted.first().unwrap_or(&"file")),
            Self::KernelElf { .. } => {
                "give the kernel as vmlinux, or a bzImage packed with gzip, lz4, xz or zstd".to_owned()
            }
            Self::KernelMissing { .. } | Self::KernelFormat { .. } => {
                "name a kernel image package as kernel_package, e.g. linux-image-cloud-amd64".to_owned()
            }
            Self::KernelOptionMissing { .. } => {
                "name a kernel that has it built in, or take another network_owner (airlock needs none of it)"
                    .to_owned()
            }
            Self::ModuleMissing { .. } => "take the module off the recipe or name a kernel that has it".to_owned(),
            Self::GuestProgram { .. } => "build airlock again with its own guest programs".to_owned(),
            Self::ServiceProgramMissing { .. } => "add the package that has the program to the recipe".to_owned(),
            Self::ImageMissing { reference, .. } => {
                format!("airlock image build {}", reference.split('@').next().unwrap_or(reference))
            }
            Self::ImageFileMissing { image, .. }
            | Self::ImageCorrupt { image, .. }
            | Self::ManifestMalformed { image, .. } => {
                format!("airlock image build {}, which replaces it", image.split('@').next().unwrap_or(image))
            }
            Self::ToolFailed { .. } => "read the build log; check the network to the package mirror".to_owned(),
            Self::Io { .. } | Self::Encode(_) | Self::EncodeManifest(_) | Self::Initramfs(_) => {
                "read the error's causes and the build log, then build again".to_owned()
            }
        }
    }
}

fn holder(other: Option<&str>) -> String {
    other.map(|other| format!(": {other}")).unwrap_or_default()
}

fn more(problems: usize) -> String {
    if problems > 1 { format!(" (and {} more)", problems - 1) } else { String::new() }
}

fn at(stage: Option<Stage>) -> String {
    stage.map(|stage| format!(" at {stage}")).unwrap_or_default()
}

fn last_words(tail: &[String]) -> &str {
    tail.iter().rev().find(|line| line.starts_with("E: ")).or(tail.last()).map_or("no output", String::as_str)
}

fn found(known: &[String]) -> String {
    if known.is_empty() { "none was built yet".to_owned() } else { format!("there are {}", known.join(", ")) }
}

/// What contradicts itself in a recipe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeFault {
    /// A name that is no name.
    #[error("{field} has {name:?}, which is no lower-case name")]
    NameInvalid {
        /// The field.
        field: &'static str,
        /// Its value.
        name: String,
    },
    /// A path that is not absolute and plain.
    #[error("{path:?} is no plain path (absolute in the image, relative for a source, without \"..\")")]
    PathInvalid {
        /// The path.
        path: String,
    },
    /// A user that the recipe does not create.
    #[error("user {user:?} is neither root nor one of the recipe's users")]
    UserUnknown {
        /// Name.
        user: String,
    },
    /// Two users of one name, or a second root.
    #[error("user {user:?} is declared twice or is root")]
    UserTaken {
        /// Name.
        user: String,
    },
    /// A file with no content, or two.
    #[error("file {path} needs one of content, source and link")]
    ContentAmbiguous {
        /// Path in the image.
        path: String,
    },
    /// A source that does not exist.
    #[error("there is no source file {file:?} in the recipe's directory")]
    SourceMissing {
        /// Name below the recipe's directory.
        file: String,
    },
    /// Two services of one name.
    #[error("service {service:?} is declared twice")]
    ServiceTwice {
        /// Name.
        service: String,
    },
    /// The contract would count a VM ready that nobody can reach.
    #[error("readiness lacks {stage}")]
    ReadinessLacks {
        /// The stage.
        stage: Stage,
    },
    /// A stage of a display that the recipe does not have.
    #[error("readiness has {stage}, but the recipe has no display")]
    StageWithoutDisplay {
        /// The stage.
        stage: Stage,
    },
    /// A program of the image is to configure the network, and nobody starts it.
    #[error("network_owner is {}, which only an init starts; handover is not \"init\"", owner.name())]
    OwnerWithoutInit {
        /// The owner.
        owner: NetworkOwner,
    },
    /// The owner is to ask a DHCP server, and nothing makes it.
    #[error(
        "network_owner is {}, which asks no DHCP server here (systemd-networkd, dhcpcd, ifupdown and network-manager do); \
         network_addressing is \"dhcp\"",
        owner.name()
    )]
    OwnerNeverAsks {
        /// The owner.
        owner: NetworkOwner,
    },
    /// The owner is to have its address written down, and no form of that is known for it.
    #[error("network_owner is {}, which is given its address by DHCP only; network_addressing is not \"dhcp\"", owner.name())]
    OwnerOnlyAsks {
        /// The owner.
        owner: NetworkOwner,
    },
    /// Something else than a list of recipes to begin with.
    #[error("from is no list of names of recipes")]
    FromMalformed,
    /// Recipes that begin with each other, or nearly so.
    #[error("from leads through {depth} recipes and more")]
    FromTooDeep {
        /// How many it went through.
        depth: usize,
    },
    /// A package of npm without an exact version.
    #[error("npm package {package:?} is no name@version with an exact version")]
    NpmPackage {
        /// As the recipe has it.
        package: String,
    },
    /// A filesystem that is not written, or a size where none is chosen.
    #[error(
        "root_fs {root_fs} with root_size_mib {size_mib:?} is not written: erofs has the size it needs, ext4 1 to 1048576"
    )]
    RootFormat {
        /// Filesystem.
        root_fs: &'static str,
        /// Size.
        size_mib: Option<u64>,
    },
    /// A port that is another's.
    #[error("service {service:?} listens on port {port}, which another service or the agent has")]
    PortTaken {
        /// Name.
        service: String,
        /// TCP port.
        port: u16,
    },
    /// No memory or no CPU.
    #[error("memory_mib and vcpus must be at least 1")]
    NoResources,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn the_chain_reaches_the_errno() {
        let err = ImageError::io("write", Path::new("/x"))(io::Error::from_raw_os_error(28));
        assert_eq!(err.code(), "disk_full");
        let errno = err.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
        assert_eq!(errno.raw_os_error(), Some(28));
        assert!(!err.to_string().contains(&errno.to_string()));
    }

    #[test]
    fn apts_own_words_are_quoted() {
        let tail = ["I: x", "E: Unable to locate package y", "I: removing"].map(str::to_owned);
        assert_eq!(last_words(&tail), "E: Unable to locate package y");
    }
}
