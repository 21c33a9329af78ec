//! `[index]`: which repositories the merged Python index is made of.

use serde::Deserialize;

use crate::error::shown::shown;

/// The Python index that merges several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "IndexWire")]
pub struct Index {
    /// In their order: the first that has a name serves it alone.
    pub repositories: Vec<String>,
    /// Names that never come from the public index.
    pub private: Vec<String>,
    /// The public index. There is no default.
    pub public: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexWire {
    repositories: Vec<String>,
    #[serde(default)]
    private: Vec<String>,
    public: Option<String>,
}

impl TryFrom<IndexWire> for Index {
    type Error = String;

    fn try_from(wire: IndexWire) -> Result<Self, String> {
        let IndexWire { repositories, private, public } = wire;
        // Without one, every name would be a public one.
        if repositories.is_empty() {
            return Err("`repositories` of [index] names no repository".to_owned());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_pattern = |text: &String| {
            let beginning = text.strip_suffix('*').unwrap_or(text);
            !text.is_empty() && beginning.chars().all(plain)
        };
        if let Some(wrong) = private.iter().find(|text| !is_pattern(text)) {
            let wrong = shown(wrong);
            return Err(format!("{wrong:?} is no name of a project, nor its beginning with one * behind it"));
        }
        if let Some(text) = public.as_ref().filter(|text| !is_index(text)) {
            let text = shown(text);
            return Err(format!("{text:?} is not the https URL of an index"));
        }
        Ok(Self { repositories, private, public })
    }
}

fn is_index(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        let bare = url.username().is_empty() && url.password().is_none();
        url.scheme() == "https" && bare && url.query().is_none() && url.fragment().is_none()
    })
}
