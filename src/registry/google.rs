//! Google's own registry hosts, to read and to write: `LOCATION-FORMAT.pkg.dev`, their regional endpoints
//! `FORMAT.LOCATION.rep.pkg.dev`, and `gcr.io` with its regions.
//!
//! A location is one of Google's forms and nothing else. Clients put prefixes before a name that somebody else chose
//! (pdm asks for `pdm-pypi-NAME`, poetry for `poetry-repository-NAME`), so whatever might stand before a good location
//! and still be read as one would let a file in the working directory choose who gets a token.

use super::Format;

/// What Google serves on a host, if it is one of Google's registry hosts. Labels are compared whole.
pub(super) fn format(host: &str) -> Option<Format> {
    read(host).map(|(format, _)| format)
}

/// Where a host of Google's is, as `LOCATION` in its name or by what stands behind `gcr.io`.
#[must_use]
pub fn location(host: &str) -> Option<&str> {
    read(host).map(|(_, location)| location)
}

fn read(host: &str) -> Option<(Format, &str)> {
    if let Some((_, location)) = OLDER.iter().find(|(older, _)| *older == host) {
        return Some((Format::Docker, location));
    }
    let below = host.strip_suffix(".pkg.dev")?;
    let (location, format) = match below.split('.').collect::<Vec<_>>().as_slice() {
        [first] => first.rsplit_once('-')?,
        [format, location, "rep"] => (*location, *format),
        _ => return None,
    };
    is_location(location).then(|| Format::from_word(format)).flatten().map(|format| (format, location))
}

/// Whether a text has the form of a location of Google's: a multi-region, or a continent, a direction and a number, as
/// in `europe-west1`. A region of a continent that is not listed has to be named as `[[registry]]`.
#[must_use]
pub fn is_location(text: &str) -> bool {
    let region = || {
        let (continent, rest) = text.split_once('-')?;
        let number = rest.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let direction = &rest[..rest.len() - number.len()];
        let is_number = (1..=2).contains(&number.len())
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && !number.starts_with('0');
        Some(CONTINENTS.contains(&continent) && DIRECTIONS.contains(&direction) && is_number)
    };
    MULTI_REGIONS.contains(&text) || region().unwrap_or_default()
}

/// Whether a host is below the names that Google's registries are below, be it one or not.
#[must_use]
pub fn is_in_googles_zones(host: &str) -> bool {
    let host = host.split(':').next().unwrap_or_default();
    ["pkg.dev", "gcr.io"]
        .iter()
        .any(|zone| host.strip_suffix(zone).is_some_and(|below| below.is_empty() || below.ends_with('.')))
}

/// The hosts of a location, one for each format, and their regional endpoints.
pub fn hosts_at(location: &str) -> impl Iterator<Item = String> {
    Format::ALL.iter().flat_map(move |format| {
        let format = format.word();
        [format!("{location}-{format}.pkg.dev"), format!("{format}.{location}.rep.pkg.dev")]
    })
}

/// All of them, exact or as `*.SUFFIX`.
pub fn every_host() -> impl Iterator<Item = &'static str> {
    std::iter::once("*.pkg.dev").chain(OLDER.iter().map(|(host, _)| *host))
}

/// The name of the repository that Google keeps for a host of the older kind, which is the host itself.
#[must_use]
pub fn repository_of_host(host: &str) -> Option<&str> {
    OLDER.iter().any(|(older, _)| *older == host).then_some(host)
}

/// The hosts of the older kind, and where each one's repository is. There are others below `gcr.io`, which everybody may
/// read and which want no token.
const OLDER: [(&str, &str); 4] =
    [("gcr.io", "us"), ("us.gcr.io", "us"), ("eu.gcr.io", "europe"), ("asia.gcr.io", "asia")];
const MULTI_REGIONS: [&str; 3] = ["us", "europe", "asia"];
/// How the names of Google's regions begin. None of these is the end of another.
const CONTINENTS: [&str; 8] =
    ["africa", "asia", "australia", "europe", "me", "northamerica", "southamerica", "us"];
const DIRECTIONS: [&str; 9] =
    ["central", "east", "north", "northeast", "northwest", "south", "southeast", "southwest", "west"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Google's locations in 2026, as its helper for docker lists them.
    const REAL: [&str; 47] = [
        "us",
        "europe",
        "asia",
        "africa-south1",
        "asia-east1",
        "asia-east2",
        "asia-northeast1",
        "asia-northeast2",
        "asia-northeast3",
        "asia-south1",
        "asia-south2",
        "asia-southeast1",
        "asia-southeast2",
        "asia-southeast3",
        "australia-southeast1",
        "australia-southeast2",
        "europe-central2",
        "europe-north1",
        "europe-north2",
        "europe-southwest1",
        "europe-west1",
        "europe-west2",
        "europe-west3",
        "europe-west4",
        "europe-west6",
        "europe-west8",
        "europe-west9",
        "europe-west10",
        "europe-west12",
        "me-central1",
        "me-central2",
        "me-west1",
        "northamerica-northeast1",
        "northamerica-northeast2",
        "northamerica-south1",
        "southamerica-east1",
        "southamerica-west1",
        "us-central1",
        "us-central2",
        "us-east1",
        "us-east4",
        "us-east5",
        "us-south1",
        "us-west1",
        "us-west2",
        "us-west4",
        "us-west8",
    ];

    #[test]
    fn every_real_location_is_read_and_written() {
        for place in REAL {
            assert!(is_location(place), "{place}");
            for host in hosts_at(place) {
                assert_eq!(location(&host), Some(place), "{host}");
                assert!(format(&host).is_some(), "{host}");
            }
        }
        for (host, place) in OLDER {
            assert_eq!((format(host), location(host)), (Some(Format::Docker), Some(place)));
        }
    }

    #[test]
    fn what_only_looks_like_a_location_is_none() {
        for text in [
            "",
            "-",
            "eu",
            "america",
            "pkg",
            "us-",
            "-us",
            "us1",
            "us-1",
            "us-west",
            "us-west-1",
            "us-west01",
            "us-west0",
            "us-west123",
            "us-west1a",
            "us-west1-a",
            "us-west1-b",
            "US-west1",
            "us-West1",
            "xus",
            "xeurope-west1",
            "europe-westwest1",
            "europe-1west",
            "x-europe-west1",
            "pdm-pypi-us",
            "pdm-pypi-europe-west1",
            "pypi-west1",
            "us.west1",
            "us_west1",
            "us-west\u{661}",
        ] {
            assert!(!is_location(text), "{text:?}");
        }
    }

    /// What the known clients put before a name that a project's file chose.
    const PREFIXES: [&str; 12] = [
        "pdm-pypi-",
        "pdm-repository-",
        "poetry-repository-",
        "python-poetry-",
        "hatch-",
        "index-",
        "uv-",
        "pipenv-",
        "keyring-",
        "repository-",
        "source-",
        "a-",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn no_prefix_before_a_good_host_is_ever_accepted(
            prefix in prop_oneof![
                4 => "[a-z0-9-]{1,24}",
                1 => proptest::sample::select(PREFIXES.to_vec()).prop_map(str::to_owned),
                1 => "(us|europe|asia|me|africa|northamerica)-?[a-z]{0,9}[0-9]{0,2}-?",
                1 => "(python|docker|npm|apt|go)[-.]?",
            ],
            place in proptest::sample::select(REAL.to_vec()),
            at in 0..20_usize,
        ) {
            let good: Vec<String> = hosts_at(place).chain(OLDER.map(|(host, _)| host.to_owned())).collect();
            let good = &good[at % good.len()];
            let name = format!("{prefix}{good}");
            prop_assert_eq!(format(&name), None, "{}", name);
            prop_assert!(!is_location(&format!("{prefix}{place}")), "{}{}", prefix, place);
        }

        #[test]
        fn a_location_has_one_of_googles_forms(text in "[a-z0-9.-]{0,30}") {
            if is_location(&text) {
                let words = text.trim_end_matches(|c: char| c.is_ascii_digit());
                prop_assert!(MULTI_REGIONS.contains(&text.as_str()) || words.matches('-').count() == 1);
            }
        }
    }
}
