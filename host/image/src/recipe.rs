//! Recipes: what a golden image is made of, as a TOML file. Parsed and validated as a whole before anything is built.
//!
//! A recipe is embedded (`base`, `browser`, ...) or given by a path. Files it names as `source` lie in the directory that
//! has the recipe's name, beside the recipe. An unknown recipe or field is refused and what exists is listed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use airlock_protocol::Stage;
pub use airlock_protocol::guest_config::{Addressing, NetworkOwner, OnConflict};
use airlock_protocol::guest_config::{Display, Handover, RootFs, Service};
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{ImageError, RecipeFault};
use crate::inherit;
use crate::source::{KernelFile, RootSource};

include!(concat!(env!("OUT_DIR"), "/recipes.rs"));

/// Where the agent answers.
const HEALTH_PORT: u16 = airlock_protocol::paths::HEALTH_PORT;

/// Time stamp of every file in an image unless the recipe says otherwise: 2026-01-01T00:00:00Z.
const DEFAULT_EPOCH: u64 = 1_767_225_600;

struct Embedded {
    name: &'static str,
    text: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

/// What a recipe file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Embedded recipes that this one begins with: lists go on, everything else is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// Name of the image.
    pub name: String,
    /// Distribution suite, e.g. `bookworm`.
    pub suite: String,
    /// What the packages are added to.
    #[serde(default, skip_serializing_if = "Base::is_default")]
    pub base: Base,
    /// Packages besides the base.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Packages of the npm registry, each as `name@version`; none of their scripts run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub npm: Vec<String>,
    /// Filesystem of the root.
    #[serde(default = "default_root_fs", skip_serializing_if = "is_default_root_fs")]
    pub root_fs: RootFs,
    /// Size of an ext4 root in MiB; as small as possible if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_size_mib: Option<u64>,
    /// Package of the kernel.
    pub kernel_package: String,
    /// Modules for the initramfs; their dependencies are added.
    pub modules: Vec<String>,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Stages of the readiness contract.
    pub readiness: Vec<Stage>,
    /// Who configures the guest's network.
    #[serde(default)]
    pub network_owner: NetworkOwner,
    /// Where that owner has the address from.
    #[serde(default, skip_serializing_if = "Addressing::is_default")]
    pub network_addressing: Addressing,
    /// What follows when somebody else changes the guest's address.
    #[serde(default, skip_serializing_if = "OnConflict::is_default")]
    pub on_address_conflict: OnConflict,
    /// Who is PID 1 after the root is mounted.
    #[serde(default, skip_serializing_if = "Handover::is_default")]
    pub handover: Handover,
    /// Time stamp of every file in the image, seconds since the Unix epoch.
    #[serde(default = "default_epoch")]
    pub epoch: u64,
    /// Ordinary users to create.
    #[serde(default)]
    pub users: Vec<User>,
    /// Files and directories to write.
    #[serde(default)]
    pub files: Vec<RecipeFile>,
    /// Commands that run in the finished root, without a network, each as program and arguments.
    #[serde(default)]
    pub run: Vec<Vec<String>>,
    /// Supervised services, in start order.
    #[serde(default)]
    pub services: Vec<Service>,
    /// The display to watch.
    #[serde(default)]
    pub display: Option<Display>,
}

const fn default_epoch() -> u64 {
    DEFAULT_EPOCH
}

const fn default_root_fs() -> RootFs {
    RootFs::Erofs
}

fn is_default_root_fs(root_fs: &RootFs) -> bool {
    *root_fs == default_root_fs()
}

impl Recipe {
    /// Modules for the initramfs: those of the recipe, with that of the root's filesystem in the place of any other's.
    pub fn initramfs_modules(&self) -> Vec<String> {
        const FILESYSTEMS: [&str; 3] = [RootFs::Erofs.name(), RootFs::Ext4.name(), RootFs::Squashfs.name()];
        let own = self.root_fs.name();
        let others = self.modules.iter().filter(|name| !FILESYSTEMS.contains(&name.as_str()) || *name == own);
        let mut modules: Vec<String> = others.cloned().collect();
        if !modules.iter().any(|name| name == own) {
            modules.push(own.to_owned());
        }
        modules
    }
}

/// What a root begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// The distribution's essential packages, installed.
    #[default]
    Minimal,
    /// Nothing: the packages are unpacked, none of their scripts run, and there is no package database.
    Nothing,
}

impl Base {
    /// Whether this is what is meant when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// An ordinary user. The group has the user's name and number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User and group number.
    pub uid: u32,
    /// Home directory, created with mode 0700.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// A file or directory of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Absolute path in the image. Missing parents are created with the same owner.
    pub path: String,
    /// Permission bits.
    #[serde(default = "default_mode")]
    pub mode: u32,
    /// User who owns it.
    #[serde(default = "default_owner")]
    pub owner: String,
    /// The content itself.
    #[serde(default)]
    pub content: Option<String>,
    /// Or the file that holds it, below the recipe's directory.
    #[serde(default)]
    pub source: Option<String>,
    /// Or where it leads, if it is a symbolic link; mode and owner mean nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

const fn default_mode() -> u32 {
    0o644
}

fn default_owner() -> String {
    "root".to_owned()
}

/// A valid recipe with the content of every file it names.
#[derive(Debug, Clone)]
pub struct LoadedRecipe {
    /// The recipe.
    pub recipe: Recipe,
    /// Content of `recipe.files`, in the same order.
    pub contents: Vec<Vec<u8>>,
    /// Where the root comes from.
    pub source: RootSource,
    /// A kernel that takes the place of the recipe's.
    pub kernel: Option<KernelFile>,
}

impl LoadedRecipe {
    /// Loads an embedded recipe by name, or a recipe file if `reference` has a `/` or ends in `.toml`.
    pub fn load(reference: &str) -> Result<Self, ImageError> {
        if reference.contains('/') || reference.ends_with(".toml") {
            return Self::from_file(Path::new(reference));
        }
        Self::embedded(reference, 0)
    }

    fn embedded(reference: &str, depth: usize) -> Result<Self, ImageError> {
        let found = EMBEDDED.iter().find(|embedded| embedded.name == reference);
        let embedded =
            found.ok_or_else(|| ImageError::RecipeUnknown { name: reference.to_owned(), known: embedded_names() })?;
        let sources = |wanted: &str| {
            let wanted = format!("{}/{wanted}", embedded.name);
            embedded.files.iter().find(|(path, _)| *path == wanted).map(|(_, bytes)| bytes.to_vec())
        };
        Self::parse_at(depth, reference, embedded.text, |source| {
            sources(source).ok_or_else(|| fault(reference, RecipeFault::SourceMissing { file: source.to_owned() }))
        })
    }

    fn from_file(path: &Path) -> Result<Self, ImageError> {
        let text = std::fs::read_to_string(path).map_err(ImageError::io("read recipe", path))?;
        let dir: PathBuf = path.with_extension("");
        Self::parse(&path.display().to_string(), &text, |source| {
            let file = dir.join(source);
            std::fs::read(&file).map_err(ImageError::io("read recipe source", &file))
        })
    }

    /// Parses and validates `text`; `read_source` gets the content of a named file.
    pub fn parse(
        reference: &str,
        text: &str,
        read_source: impl Fn(&str) -> Result<Vec<u8>, ImageError>,
    ) -> Result<Self, ImageError> {
        Self::parse_at(0, reference, text, read_source)
    }

    fn parse_at(
        depth: usize,
        reference: &str,
        text: &str,
        read_own: impl Fn(&str) -> Result<Vec<u8>, ImageError>,
    ) -> Result<Self, ImageError> {
        let malformed = |source| ImageError::RecipeMalformed { recipe: reference.to_owned(), source: Box::new(source) };
        let table: toml::Table = toml::from_str(text).map_err(malformed)?;
        let (recipe, inherited): (Recipe, _) = if table.contains_key("from") {
            let united = inherit::unite(reference, table, depth, Self::embedded)?;
            (united.table.try_into().map_err(malformed)?, united.sources)
        } else {
            (toml::from_str(text).map_err(malformed)?, Vec::new())
        };
        let read_source = |source: &str| match inherited.iter().find(|(name, _)| name == source) {
            Some((_, content)) => Ok(content.clone()),
            None => read_own(source),
        };
        validate(&recipe).map_err(|problem| fault(reference, problem))?;
        let contents = recipe.files.iter().map(|file| match (&file.content, &file.source) {
            (Some(content), _) => Ok(content.clone().into_bytes()),
            (None, Some(source)) => read_source(source),
            (None, None) => Ok(file.link.iter().flat_map(|link| format!("link to {link}").into_bytes()).collect()),
        });
        let contents = contents.collect::<Result<_, _>>()?;
        Ok(Self { recipe, contents, source: RootSource::Packages, kernel: None })
    }

    /// Refuses what was changed after the recipe was read, by the caller's own wishes.
    pub fn check(&self) -> Result<(), ImageError> {
        validate(&self.recipe).map_err(|problem| fault(&self.recipe.name, problem))
    }

    /// Digest of everything the recipe says, contents of its files included.
    pub fn digest(&self) -> Result<String, ImageError> {
        let contents: Vec<String> = self.contents.iter().map(|content| digest::of_bytes(content)).collect();
        let bytes = serde_json::to_vec(&(&self.recipe, contents)).map_err(ImageError::Encode)?;
        Ok(digest::of_bytes(&bytes))
    }
}

/// Names of the recipes in this build.
pub fn embedded_names() -> Vec<String> {
    EMBEDDED.iter().map(|embedded| embedded.name.to_owned()).collect()
}

pub(crate) fn fault(recipe: &str, problem: RecipeFault) -> ImageError {
    ImageError::RecipeInvalid { recipe: recipe.to_owned(), problem }
}

fn validate(recipe: &Recipe) -> Result<(), RecipeFault> {
    check_name("name", &recipe.name)?;
    check_name("suite", &recipe.suite)?;
    for package in recipe.packages.iter().chain([&recipe.kernel_package]) {
        check_name("packages", package)?;
    }
    for package in &recipe.npm {
        check_npm(package)?;
    }
    if recipe.memory_mib == 0 || recipe.vcpus == 0 {
        return Err(RecipeFault::NoResources);
    }
    match (recipe.root_fs, recipe.root_size_mib) {
        (RootFs::Erofs, None) => {}
        // Up to 1 TiB: more is a slip of the keyboard.
        (RootFs::Ext4, size) if size.is_none_or(|mib| (1..=1 << 20).contains(&mib)) => {}
        (root_fs, size_mib) => return Err(RecipeFault::RootFormat { root_fs: root_fs.name(), size_mib }),
    }
    for stage in [Stage::AgentUp, Stage::Reachable] {
        if !recipe.readiness.contains(&stage) {
            return Err(RecipeFault::ReadinessLacks { stage });
        }
    }
    if recipe.display.is_none() {
        let of_display = [Stage::DisplayUp, Stage::BrowserUp, Stage::PagePainted];
        if let Some(stage) = recipe.readiness.iter().find(|stage| of_display.contains(stage)) {
            return Err(RecipeFault::StageWithoutDisplay { stage: *stage });
        }
    }
    let mut users = BTreeSet::from(["root"]);
    for user in &recipe.users {
        check_name("users.name", &user.name)?;
        check_path(&user.home)?;
        check_path(&user.shell)?;
        if user.uid == 0 || !users.insert(&user.name) {
            return Err(RecipeFault::UserTaken { user: user.name.clone() });
        }
    }
    let owners = recipe.files.iter().map(|file| &file.owner);
    let runners = recipe.services.iter().filter_map(|service| service.user.as_ref());
    let display = recipe.display.iter().map(|display| &display.user);
    for user in owners.chain(runners).chain(display) {
        if !users.contains(user.as_str()) {
            return Err(RecipeFault::UserUnknown { user: user.clone() });
        }
    }
    for file in &recipe.files {
        check_path(&file.path)?;
        let given = [file.content.is_some(), file.source.is_some(), file.link.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err(RecipeFault::ContentAmbiguous { path: file.path.clone() });
        }
        if file.source.as_ref().is_some_and(|source| source.split('/').any(|part| part.is_empty() || part == "..")) {
            return Err(RecipeFault::PathInvalid { path: file.source.clone().unwrap_or_default() });
        }
    }
    let (mut services, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for service in &recipe.services {
        check_path(service.command.first().map_or("", String::as_str))?;
        if !services.insert(&service.name) {
            return Err(RecipeFault::ServiceTwice { service: service.name.clone() });
        }
        for port in &service.ports {
            if *port == HEALTH_PORT || !ports.insert(*port) {
                return Err(RecipeFault::PortTaken { service: service.name.clone(), port: *port });
            }
        }
    }
    if recipe.handover == Handover::Supervise
        && !matches!(recipe.network_owner, NetworkOwner::Airlock | NetworkOwner::Kernel)
    {
        return Err(RecipeFault::OwnerWithoutInit { owner: recipe.network_owner });
    }
    check_addressing(recipe.network_owner, recipe.network_addressing)?;
    for command in &recipe.run {
        check_path(command.first().map_or("", String::as_str))?;
    }
    Ok(())
}

/// Each form of an owner's configuration is written for the owners that it was tried with.
fn check_addressing(owner: NetworkOwner, addressing: Addressing) -> Result<(), RecipeFault> {
    use NetworkOwner as Owner;
    let (does_static, does_dhcp) = match owner {
        Owner::SystemdNetworkd | Owner::Dhcpcd | Owner::Ifupdown => (true, true),
        Owner::NetworkManager => (false, true),
        _ => (true, false),
    };
    match addressing {
        Addressing::Static if !does_static => Err(RecipeFault::OwnerOnlyAsks { owner }),
        Addressing::Dhcp if !does_dhcp => Err(RecipeFault::OwnerNeverAsks { owner }),
        Addressing::Static | Addressing::Dhcp => Ok(()),
    }
}

/// `name@version` or `@scope/name@version`, the version exact: a range would be another package tomorrow.
fn check_npm(package: &str) -> Result<(), RecipeFault> {
    let invalid = || RecipeFault::NpmPackage { package: package.to_owned() };
    let (name, version) = package.rsplit_once('@').ok_or_else(invalid)?;
    let plain = |text: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && text.chars().all(fits)
    };
    let named = match name.strip_prefix('@') {
        Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| plain(scope) && plain(name)),
        None => plain(name),
    };
    let exact = version.split('.').count() >= 3
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".-+".contains(c));
    if named && exact { Ok(()) } else { Err(invalid()) }
}

/// Names become arguments of tools and parts of file names.
fn check_name(field: &'static str, name: &str) -> Result<(), RecipeFault> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-._".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if starts_well && name.chars().all(fits) {
        return Ok(());
    }
    Err(RecipeFault::NameInvalid { field, name: name.to_owned() })
}

fn check_path(path: &str) -> Result<(), RecipeFault> {
    let parts_fit = path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    if path.starts_with('/') && parts_fit && !path.contains([':', '\n', '\0']) {
        return Ok(());
    }
    Err(RecipeFault::PathInvalid { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    const BASE: &str = r#"
name = "base"
suite = "bookworm"
kernel_package = "linux-image-cloud-amd64"
modules = ["erofs"]
memory_mib = 256
vcpus = 1
readiness = ["agent_up", "reachable"]
"#;

    fn parse(extra: &str) -> Result<LoadedRecipe, ImageError> {
        LoadedRecipe::parse("test", &format!("{BASE}\n{extra}"), |source| {
            Ok(format!("content of {source}").into_bytes())
        })
    }

    #[test]
    fn every_embedded_recipe_is_valid() {
        for name in embedded_names() {
            assert_eq!(LoadedRecipe::load(&name).unwrap().recipe.name, name);
        }
        assert!(embedded_names().contains(&"base".to_owned()));
    }

    #[test]
    fn an_unknown_recipe_lists_what_exists() {
        let text = LoadedRecipe::load("bsae").unwrap_err().to_string();
        assert!(text.contains("bsae") && text.contains("base"), "{text}");
    }

    #[test]
    fn an_unknown_field_is_named_with_the_known_ones() {
        let err = parse("memroy = 3").unwrap_err();
        let text = err.source().unwrap().to_string();
        assert!(text.contains("memroy") && text.contains("memory_mib"), "{text}");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let refused = |extra: &str| match parse(extra).unwrap_err() {
            ImageError::RecipeInvalid { problem, .. } => problem,
            other => panic!("{other}"),
        };
        let file = "[[files]]\npath = \"/etc/x\"\n";
        assert!(matches!(refused(file), RecipeFault::ContentAmbiguous { .. }));
        assert!(matches!(refused(&format!("{file}source = \"../x\"")), RecipeFault::PathInvalid { .. }));
        assert!(matches!(
            refused(&format!("{file}content = \"\"\nowner = \"nobody-here\"")),
            RecipeFault::UserUnknown { .. }
        ));
        assert!(matches!(refused("packages = [\"--hook=x\"]"), RecipeFault::NameInvalid { .. }));
        assert!(matches!(refused("run = [[\"fc-cache\"]]"), RecipeFault::PathInvalid { .. }));
        assert!(matches!(
            refused(&format!("{file}content = \"\"\nlink = \"y\"")),
            RecipeFault::ContentAmbiguous { .. }
        ));
        for package in ["codex", "codex@latest", "codex@^1.2.3", "@openai@1.2.3", "../x@1.2.3", "--x@1.2.3", "x@1.2"] {
            assert!(matches!(refused(&format!("npm = [{package:?}]")), RecipeFault::NpmPackage { .. }), "{package}");
        }
        assert!(parse("npm = [\"@openai/codex@0.169.0\", \"left-pad@1.3.0-rc.1\"]").is_ok());
        assert!(matches!(refused("root_size_mib = 8192"), RecipeFault::RootFormat { .. }));
        assert!(matches!(refused("root_fs = \"squashfs\""), RecipeFault::RootFormat { .. }));
        assert!(parse("root_fs = \"ext4\"\nroot_size_mib = 8192").is_ok());
        let service = |name: &str, port: u16| {
            format!("[[services]]\nname = {name:?}\ncommand = [\"/bin/x\"]\nports = [{port}]\n")
        };
        let twice = [service("a", 80), service("b", 80)].concat();
        assert!(matches!(refused(&twice), RecipeFault::PortTaken { port: 80, .. }));
        assert!(matches!(refused(&service("a", HEALTH_PORT)), RecipeFault::PortTaken { .. }));
        assert!(matches!(refused("network_owner = \"dhcpcd\""), RecipeFault::OwnerWithoutInit { .. }));
        assert!(parse("network_owner = \"dhcpcd\"\nhandover = \"init\"").is_ok());
        let asks = "handover = \"init\"\nnetwork_addressing = \"dhcp\"\nnetwork_owner =";
        assert!(parse(&format!("{asks} \"dhcpcd\"")).is_ok());
        assert!(matches!(refused(&format!("{asks} \"kernel\"")), RecipeFault::OwnerNeverAsks { .. }));
        assert!(matches!(refused("network_addressing = \"dhcp\""), RecipeFault::OwnerNeverAsks { .. }));
        let static_only = "handover = \"init\"\nnetwork_owner = \"network-manager\"";
        assert!(matches!(refused(static_only), RecipeFault::OwnerOnlyAsks { .. }));
        let root = "[[users]]\nname = \"root\"\nuid = 5\nhome = \"/root\"\nshell = \"/bin/sh\"";
        assert!(matches!(refused(root), RecipeFault::UserTaken { .. }));
        let without_display = BASE.replace("\"reachable\"", "\"reachable\", \"display_up\"");
        let err = LoadedRecipe::parse("test", &without_display, |_| Ok(Vec::new())).unwrap_err();
        assert!(err.to_string().contains("test") && err.source().unwrap().to_string().contains("display_up"));
    }

    #[test]
    fn the_initramfs_has_the_module_of_the_roots_filesystem_and_no_other() {
        let modules = |extra: &str| parse(extra).unwrap().recipe.initramfs_modules();
        assert_eq!(modules(""), ["erofs"]);
        assert_eq!(modules("root_fs = \"ext4\""), ["ext4"]);
    }

    #[test]
    fn the_digest_covers_the_content_of_sources() {
        let file = format!("{BASE}\n[[files]]\npath = \"/etc/x\"\nsource = \"x\"");
        let with =
            |content: &str| LoadedRecipe::parse("test", &file, |_| Ok(content.into())).unwrap().digest().unwrap();
        assert_eq!(with("a"), with("a"));
        assert_ne!(with("a"), with("b"));
        let link =
            |to: &str| parse(&format!("[[files]]\npath = \"/etc/x\"\nlink = \"{to}\"")).unwrap().digest().unwrap();
        assert_ne!(link("a"), link("b"));
    }
}
