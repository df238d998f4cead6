//! Recipes made of recipes: `from` names others, whose parts come first.
//!
//! A list has what the others' lists have, then its own, each once; everything else is the last one's that says it. So an image of a
//! tool is `browser` and a few lines, and an image of several tools is those recipes together. Pure: no file is read here.

use crate::digest;
use crate::error::{ImageError, RecipeFault};
use crate::recipe::{LoadedRecipe, fault};

/// Recipes on recipes on recipes are a slip; a circle would have no end.
const MAX_DEPTH: usize = 4;

/// A recipe's text with the parts of those that it names.
pub(crate) struct United {
    /// The whole recipe.
    pub(crate) table: toml::Table,
    /// Contents of the others' sources; such a source is named by the digest of its content.
    pub(crate) sources: Vec<(String, Vec<u8>)>,
}

/// Puts the recipes that `table` names before it. `load` gets one of them by its name and its depth.
pub(crate) fn unite(
    reference: &str,
    table: toml::Table,
    depth: usize,
    load: impl Fn(&str, usize) -> Result<LoadedRecipe, ImageError>,
) -> Result<United, ImageError> {
    let names = from(&table).ok_or_else(|| fault(reference, RecipeFault::FromMalformed))?;
    if depth >= MAX_DEPTH {
        return Err(fault(reference, RecipeFault::FromTooDeep { depth }));
    }
    let (mut whole, mut sources) = (toml::Table::new(), Vec::new());
    for name in names {
        let other = with_digests(load(&name, depth + 1)?, &mut sources);
        let other = toml::Table::try_from(&other.recipe).map_err(ImageError::EncodeManifest)?;
        lay_over(&mut whole, other);
    }
    lay_over(&mut whole, table);
    Ok(United { table: whole, sources })
}

/// The recipes named by `from`; `None` if it is no list of names.
fn from(table: &toml::Table) -> Option<Vec<String>> {
    table.get("from")?.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

/// Names every source by its content, since the directory it lay in is not the new recipe's.
fn with_digests(mut loaded: LoadedRecipe, sources: &mut Vec<(String, Vec<u8>)>) -> LoadedRecipe {
    for (file, content) in loaded.recipe.files.iter_mut().zip(loaded.contents.drain(..)) {
        if file.source.is_some() {
            let name = digest::of_bytes(&content);
            file.source = Some(name.clone());
            sources.push((name, content));
        }
    }
    loaded.recipe.from.clear();
    loaded
}

fn lay_over(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Array(list)), toml::Value::Array(more)) => {
                for item in more {
                    if !list.contains(&item) {
                        list.push(item);
                    }
                }
            }
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LoadedRecipe, ImageError> {
        LoadedRecipe::parse("test", text, |source| Ok(format!("own {source}").into_bytes()))
    }

    #[test]
    fn a_recipe_is_the_others_and_its_own_lines() {
        let browser = LoadedRecipe::load("browser").unwrap();
        let text = "from = [\"browser\"]\nname = \"t\"\npackages = [\"gh\", \"firefox-esr\"]\nmemory_mib = 77\n\
                    [[files]]\npath = \"/x\"\nsource = \"x\"";
        let own = parse(text).unwrap();
        assert_eq!((own.recipe.name.as_str(), own.recipe.memory_mib), ("t", 77));
        assert_eq!(own.recipe.packages.len(), browser.recipe.packages.len() + 1, "{:?}", own.recipe.packages);
        assert_eq!((&own.recipe.services, &own.recipe.display), (&browser.recipe.services, &browser.recipe.display));
        assert_eq!(own.contents[..browser.contents.len()], browser.contents[..]);
        assert_eq!(own.contents.last().unwrap(), b"own x");
    }

    #[test]
    fn what_several_recipes_share_is_there_once() {
        let one = parse("from = [\"codex\"]\nname = \"t\"").unwrap();
        let two = parse("from = [\"codex\", \"gh\"]\nname = \"t\"").unwrap();
        assert_eq!(two.recipe.services, one.recipe.services);
        assert_eq!((two.recipe.files.len(), two.contents.len()), (one.recipe.files.len(), one.contents.len()));
        assert_eq!(two.recipe.packages.len(), one.recipe.packages.len() + 1);
    }

    #[test]
    fn what_cannot_be_put_together_is_refused() {
        let refused = |text: &str| match parse(text).unwrap_err() {
            ImageError::RecipeInvalid { problem, .. } => problem,
            other => panic!("{other}"),
        };
        assert_eq!(refused("from = \"browser\"\nname = \"t\""), RecipeFault::FromMalformed);
        let circle = |_: &str, depth: usize| unite("a", toml::toml! { from = ["a"] }, depth, |_, _| panic!("too deep"));
        assert!(circle("a", MAX_DEPTH).is_err());
        assert!(matches!(parse("from = [\"bsae\"]").unwrap_err(), ImageError::RecipeUnknown { .. }));
    }
}
