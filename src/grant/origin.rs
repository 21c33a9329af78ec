//! Where a grant was written, and what a refusal says is to be written there.
//!
//! A line that is printed can be put there as it is: what is there already is part of it, since a second line of one name
//! would be an error, and another list would lose what is there.

/// Where a grant was written: a refusal says what to change there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// It is the owner's own, and nobody wrote it.
    #[default]
    Owner,
    /// `[build]` of the configuration: `FILE:LINE`, or the file alone where it is not written yet.
    Build(Option<String>),
    /// A `[[listener]]`: `FILE:LINE` where it is known.
    Listener(Option<String>),
    /// `valetkey docker args`.
    Command,
}

impl Origin {
    /// How to get a setting, a line of TOML, that is missing there. What comes of a command has none.
    #[must_use]
    pub fn add(&self, line: &str) -> Option<String> {
        self.written("add to", line)
    }

    /// The same for a setting that may stand there with another value.
    #[must_use]
    pub fn set(&self, line: &str) -> Option<String> {
        self.written("set in", line)
    }

    /// The same for one more entry of a list that is there.
    #[must_use]
    pub fn append(&self, entry: &str, list: &str) -> Option<String> {
        let place = match self {
            Self::Owner | Self::Command => return None,
            Self::Build(place) => format!("[build] at {}", known(place.as_deref())),
            Self::Listener(Some(place)) => format!("the [[listener]] at {place}"),
            Self::Listener(None) => format!("the [[listener]] in {}", known(None)),
        };
        Some(format!("add {entry} to the `{list}` of {place}"))
    }

    fn written(&self, act: &str, line: &str) -> Option<String> {
        match self {
            Self::Owner | Self::Command => None,
            Self::Build(place) => Some(format!("{act} {}: [build] {line}", known(place.as_deref()))),
            Self::Listener(Some(place)) => Some(format!("{act} the [[listener]] at {place}: {line}")),
            Self::Listener(None) => Some(format!("{act} {}: [[listener]] {line}", known(None))),
        }
    }

    /// How to get a repository, in its written form, beside those that are listed: one line that can be put there as it
    /// is, unless they are many.
    #[must_use]
    pub fn list(&self, repository: &str, listed: &[String]) -> Option<String> {
        match self {
            Self::Command => {
                let with = "with the others that it needs";
                Some(format!("where the build is started, run `valetkey docker args {repository}`, {with}"))
            }
            _ if listed.is_empty() => self.add(&format!("repositories = [{repository:?}]")),
            _ if listed.len() > MOST_LISTED => self.append(&format!("{repository:?}"), "repositories"),
            _ => {
                let all: Vec<_> = listed.iter().map(String::as_str).chain([repository]).collect();
                self.set(&format!("repositories = {all:?}"))
            }
        }
    }

    /// How to get the right to write.
    #[must_use]
    pub fn widen(&self) -> Option<String> {
        match self {
            Self::Command => {
                Some("where the build is started, run `valetkey docker args --write`".to_owned())
            }
            _ => self.set("access = \"write\"").map(|set| format!("upload from outside, or {set}")),
        }
    }
}

/// The daemon may run on another machine than the one where this is read.
fn known(place: Option<&str>) -> &str {
    place.unwrap_or("config.toml where the daemon runs")
}

/// So many repositories stand in one line that a person can still read.
const MOST_LISTED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_place_or_the_command_that_decides() {
        let listener = Origin::Listener(Some("/c.toml:7".to_owned()));
        assert_eq!(listener.add("x = 1").as_deref(), Some("add to the [[listener]] at /c.toml:7: x = 1"));
        assert!(listener.list("us/a/b", &[]).unwrap().ends_with("repositories = [\"us/a/b\"]"));
        let build = Origin::Build(Some("/c.toml:7".to_owned()));
        assert_eq!(build.add("x = 1").as_deref(), Some("add to /c.toml:7: [build] x = 1"));
        // A second line of one name would be an error, and another list would lose what is there.
        let listed = ["us/a/a".to_owned()];
        for (origin, set, add) in [
            (&listener, "the [[listener]] at /c.toml:7:", "the [[listener]] at /c.toml:7"),
            (&build, "/c.toml:7: [build]", "[build] at /c.toml:7"),
        ] {
            let whole = format!("set in {set} repositories = [\"us/a/a\", \"us/a/b\"]");
            assert_eq!(origin.list("us/a/b", &listed), Some(whole));
            let one = format!("add \"us/a/b\" to the `repositories` of {add}");
            assert_eq!(origin.list("us/a/b", &vec![listed[0].clone(); 9]), Some(one));
        }
        assert!(Origin::Command.list("us/a/b", &listed).unwrap().contains("`valetkey docker args us/a/b`"));
        assert!(Origin::Command.widen().unwrap().contains("--write"));
        assert_eq!((Origin::Command.add("x = 1"), Origin::Owner.list("us/a/b", &[])), (None, None));
    }
}
