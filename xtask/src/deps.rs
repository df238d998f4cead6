//! The arrows between the crates of the workspace, and the walls around them.
//!
//! [`ARROWS`] is the only place that says who may depend on whom. [`violations`] is pure; [`check`] feeds it from
//! `cargo metadata` and fails with every forbidden arrow named. Development and build dependencies count as well.

use std::fmt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run;

/// Crate, and the workspace crates it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("airlock-protocol", &[]),
    ("airlock-api", &["airlock-protocol"]),
    ("airlock-init", &["airlock-protocol"]),
    ("airlock-agent", &["airlock-protocol"]),
    ("airlock-domain", &["airlock-protocol"]),
    ("airlock-effects", &["airlock-protocol", "airlock-domain"]),
    ("airlock-image", &["airlock-protocol", "airlock-domain"]),
    ("airlock-engine", &["airlock-protocol", "airlock-domain", "airlock-effects", "airlock-image"]),
    (
        "airlock-server",
        &["airlock-protocol", "airlock-api", "airlock-domain", "airlock-effects", "airlock-image", "airlock-engine"],
    ),
    (
        "airlock",
        &[
            "airlock-protocol",
            "airlock-api",
            "airlock-domain",
            "airlock-effects",
            "airlock-image",
            "airlock-engine",
            "airlock-server",
        ],
    ),
    ("xtask", &["airlock-protocol", "airlock-api", "airlock-domain", "airlock-image"]),
];

/// A dependency from outside, the crates that may use it, and the wall it would break anywhere else.
const WALLS: &[(&str, &[&str], &str)] = &[
    ("sqlx", &["airlock-engine"], "all SQL lives in engine/store"),
    ("axum", &["airlock-server", "airlock"], "HTTP is served by the server crate only"),
    ("rtnetlink", &["airlock-effects"], "effects is the only host crate that touches Linux"),
    ("netlink-packet-route", &["airlock-effects"], "effects is the only host crate that touches Linux"),
    (
        "tokio",
        &["airlock-effects", "airlock-engine", "airlock-server", "airlock", "airlock-api"],
        "pure crates and guest programs have no async runtime",
    ),
    (
        "nix",
        &["airlock-effects", "airlock-image", "airlock-init", "airlock-agent", "airlock", "xtask"],
        "system calls are made by effects, image, the guest programs and the binaries only",
    ),
    (
        "libc",
        &["airlock-effects", "airlock-image", "airlock-init", "airlock-agent", "airlock"],
        "system calls are made by effects, image, the guest programs and the binaries only",
    ),
];

/// One dependency of one workspace crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The crate that depends.
    pub from: String,
    /// What it depends on.
    pub to: String,
    /// Whether `to` is in this workspace.
    pub internal: bool,
    /// `normal`, `dev` or `build`.
    pub kind: String,
}

/// What is forbidden about the workspace as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A crate that the table of arrows does not know.
    UnknownCrate(String),
    /// An arrow that is not in the table.
    Arrow(Edge),
    /// A dependency from outside that breaks a wall.
    Wall(Edge, &'static str),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCrate(name) => {
                write!(f, "crate {name} has no wall: name it in ARCHITECTURE.md and in xtask/src/deps.rs")
            }
            Self::Arrow(edge) => write!(f, "forbidden arrow: {} -> {} ({})", edge.from, edge.to, edge.kind),
            Self::Wall(edge, why) => write!(f, "broken wall: {} -> {} ({}): {why}", edge.from, edge.to, edge.kind),
        }
    }
}

/// Every violation of `crates` with `edges`, in their order.
pub fn violations(crates: &[String], edges: &[Edge]) -> Vec<Violation> {
    let allowed_from = |name: &str| ARROWS.iter().find(|(from, _)| *from == name).map(|(_, to)| *to);
    let unknown = crates.iter().filter(|name| allowed_from(name).is_none()).cloned().map(Violation::UnknownCrate);
    let broken = edges.iter().filter_map(|edge| {
        if edge.internal {
            let allowed = allowed_from(&edge.from)?;
            return (!allowed.contains(&edge.to.as_str())).then(|| Violation::Arrow(edge.clone()));
        }
        // A test may use what it likes from outside: walls are about what ships.
        let (_, may_use, why) = WALLS.iter().find(|(name, ..)| *name == edge.to && edge.kind != "dev")?;
        (!may_use.contains(&edge.from.as_str())).then(|| Violation::Wall(edge.clone(), why))
    });
    unknown.chain(broken).collect()
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// The crates of a workspace and their dependencies, from `cargo metadata --no-deps`.
fn parse(metadata: &str) -> Result<(Vec<String>, Vec<Edge>)> {
    let metadata: Metadata = serde_json::from_str(metadata).context("parse the output of cargo metadata")?;
    let crates = metadata.packages.iter().map(|package| package.name.clone()).collect();
    let edges = metadata.packages.into_iter().flat_map(|package| {
        package.dependencies.into_iter().map(move |dependency| Edge {
            from: package.name.clone(),
            to: dependency.name,
            internal: dependency.path.is_some(),
            kind: dependency.kind.unwrap_or_else(|| "normal".into()),
        })
    });
    Ok((crates, edges.collect()))
}

/// Checks this workspace; fails with every violation named.
pub fn check() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = run::output(
        Command::new(cargo).args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(run::workspace_root()),
    )?;
    let (crates, edges) = parse(&metadata)?;
    let found = violations(&crates, &edges);
    if !found.is_empty() {
        bail!("{}", found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    let arrows = edges.iter().filter(|edge| edge.internal).count();
    println!("{} crates, {arrows} arrows between them, none forbidden", crates.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str, kind: &str) -> Edge {
        Edge { from: from.into(), to: to.into(), internal: to.starts_with("airlock"), kind: kind.into() }
    }

    fn found(edges: &[Edge]) -> Vec<String> {
        violations(&[], edges).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lower_layers_may_be_used() {
        for (from, to) in [
            ("airlock-domain", "airlock-protocol"),
            ("airlock-engine", "airlock-protocol"),
            ("airlock-engine", "airlock-image"),
            ("airlock", "airlock-api"),
            ("airlock-init", "airlock-protocol"),
            ("xtask", "airlock-image"),
        ] {
            assert_eq!(found(&[edge(from, to, "normal")]), Vec::<String>::new());
        }
    }

    #[test]
    fn every_other_arrow_is_named() {
        for (from, to) in [
            ("airlock-protocol", "airlock-domain"),
            ("airlock-domain", "airlock-effects"),
            ("airlock-effects", "airlock-engine"),
            ("airlock-image", "airlock-engine"),
            ("airlock-engine", "airlock-server"),
            ("airlock-engine", "airlock-api"),
            ("airlock-init", "airlock-domain"),
            ("airlock-agent", "airlock-init"),
            ("xtask", "airlock-engine"),
        ] {
            for kind in ["normal", "dev", "build"] {
                assert_eq!(found(&[edge(from, to, kind)]), [format!("forbidden arrow: {from} -> {to} ({kind})")]);
            }
        }
    }

    #[test]
    fn the_table_has_no_cycle() {
        // Each crate may use only crates that stand before it in the table.
        for (at, (from, to)) in ARROWS.iter().enumerate() {
            for target in *to {
                assert!(ARROWS[..at].iter().any(|(name, _)| name == target), "{from} -> {target}");
            }
        }
    }

    #[test]
    fn walls_hold_for_what_ships() {
        assert_eq!(
            found(&[edge("airlock-server", "sqlx", "normal")]),
            ["broken wall: airlock-server -> sqlx (normal): all SQL lives in engine/store"]
        );
        assert_eq!(found(&[edge("airlock-engine", "sqlx", "normal"), edge("airlock-domain", "tokio", "dev")]).len(), 0);
    }

    #[test]
    fn a_new_crate_needs_a_wall() {
        let found = violations(&["airlock-extra".into()], &[]);
        assert_eq!(found, [Violation::UnknownCrate("airlock-extra".into())]);
    }

    #[test]
    fn reads_cargo_metadata() {
        let (crates, edges) = parse(
            r#"{"packages":[{"name":"airlock-domain","dependencies":[
                {"name":"airlock-protocol","kind":null,"path":"/x/common/protocol"},
                {"name":"proptest","kind":"dev"}]}]}"#,
        )
        .unwrap();
        assert_eq!(crates, ["airlock-domain"]);
        assert_eq!(edges[0], edge("airlock-domain", "airlock-protocol", "normal"));
        assert_eq!(edges[1], edge("airlock-domain", "proptest", "dev"));
    }
}
