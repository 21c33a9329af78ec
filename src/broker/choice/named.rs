//! What the asking process names as its source: by a flag, by `VALETKEY_CREDENTIAL`, or by the variables of Google's own
//! tools. Whoever put a key where its path is wanted is told so here, before it is sent or kept anywhere.

use std::collections::BTreeMap;
use std::path::Path;

use crate::ask::{GcloudVariables, NamedSource};
use crate::environment::Environment;
use crate::error::shown::refuse_key;
use crate::error::{Failure, Kind};
use crate::paths::absolute;

/// The source that a process names: the flag, then `VALETKEY_CREDENTIAL`, then the variables of Google's own
/// tools.
///
/// # Errors
/// When a variable that decides has a value that cannot be read: it must not count as unset.
pub fn named(flag: Option<&Path>, environment: &Environment) -> Result<Option<NamedSource>, Failure> {
    match (flag, environment.get(CREDENTIAL).map(Path::new)) {
        (Some(word), _) => by_word("--credential", word, environment).map(Some),
        (None, Some(word)) => by_word(CREDENTIAL, word, environment).map(Some),
        (None, None) => by_google(environment),
    }
}

/// `gcloud`, `metadata`, the e-mail address of a stored login, or the path of a credential file.
fn by_word(name: &str, word: &Path, environment: &Environment) -> Result<NamedSource, Failure> {
    refuse_key(name, word.as_os_str())?;
    Ok(match word.to_str() {
        Some(account) if account.contains('@') && !account.contains(['/', '\\']) => {
            NamedSource::Login { account: account.to_owned(), state: None }
        }
        Some("gcloud") => NamedSource::Gcloud { variables: gcloud_variables(environment)? },
        Some("metadata") => NamedSource::Metadata { host: metadata_host(environment)? },
        _ => NamedSource::File { path: absolute(word) },
    })
}

fn by_google(environment: &Environment) -> Result<Option<NamedSource>, Failure> {
    if let Some(path) = environment.get(GOOGLE) {
        refuse_key(GOOGLE, path)?;
        return Ok(Some(NamedSource::File { path: absolute(Path::new(path)) }));
    }
    if GcloudVariables::ACCOUNT.iter().any(|name| environment.get(name).is_some()) {
        return Ok(Some(NamedSource::Gcloud { variables: gcloud_variables(environment)? }));
    }
    if let Some(path) = environment.get(GcloudVariables::DIRECTORY) {
        refuse_key(GcloudVariables::DIRECTORY, path)?;
        let text = path.to_str().ok_or_else(|| unreadable(GcloudVariables::DIRECTORY, "not text"))?;
        return Ok(Some(NamedSource::GcloudDirectory { path: absolute(Path::new(text)) }));
    }
    Ok(metadata_host(environment)?.map(|host| NamedSource::Metadata { host: Some(host) }))
}

/// What tells gcloud which account to use, and where its files are.
fn gcloud_variables(environment: &Environment) -> Result<GcloudVariables, Failure> {
    let mut variables = BTreeMap::new();
    for name in GcloudVariables::ACCOUNT.into_iter().chain([GcloudVariables::DIRECTORY]) {
        let Some(value) = environment.get(name) else { continue };
        refuse_key(name, value)?;
        let is_path = name == GcloudVariables::DIRECTORY || GcloudVariables::FILES.contains(&name);
        let value = if is_path { absolute(Path::new(value)).into_os_string() } else { value.to_owned() };
        let value = value.into_string().map_err(|_| unreadable(name, "not text"))?;
        variables.insert(name.to_owned(), value);
    }
    GcloudVariables::try_from(variables).map_err(|problem| Failure::new(Kind::Usage, problem))
}

fn metadata_host(environment: &Environment) -> Result<Option<String>, Failure> {
    let Some(value) = environment.get(HOST) else { return Ok(None) };
    let plain =
        |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    let host = value.to_str().filter(plain).ok_or_else(|| unreadable(HOST, "not a host or host:port"))?;
    Ok(Some(host.to_owned()))
}

/// The value itself is not repeated: it may be anything, a password among it.
fn unreadable(name: &str, problem: &str) -> Failure {
    Failure::new(Kind::Usage, format!("the value of {name} is {problem}"))
        .with_hint(format!("correct or unset {name}"))
}

/// A credential file, `gcloud` or `metadata`.
pub const CREDENTIAL: &str = "VALETKEY_CREDENTIAL";
/// Where Google's own libraries look for the path of a file.
const GOOGLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// A metadata server elsewhere than at Google's own address.
const HOST: &str = "GCE_METADATA_HOST";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::shown::KEY;

    fn named_by(pairs: &[(&str, &str)]) -> Option<NamedSource> {
        named(None, &pairs.iter().copied().collect()).unwrap()
    }

    #[test]
    fn the_asking_process_decides_in_this_order() {
        let file = |path: &str| Some(NamedSource::File { path: path.into() });
        let all = [
            ("VALETKEY_CREDENTIAL", "/v.json"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/g.json"),
            ("CLOUDSDK_CORE_ACCOUNT", "a@example.test"),
            ("CLOUDSDK_CONFIG", "/cfg"),
            ("GCE_METADATA_HOST", "127.0.0.1:1"),
        ];
        assert_eq!(named(Some(Path::new("/f.json")), &all.into_iter().collect()).unwrap(), file("/f.json"));
        assert_eq!(named_by(&all), file("/v.json"));
        assert_eq!(named_by(&all[1..]), file("/g.json"));
        let Some(NamedSource::Gcloud { variables }) = named_by(&all[2..]) else { panic!("gcloud") };
        assert_eq!(variables.get("CLOUDSDK_CONFIG"), Some("/cfg"));
        assert_eq!(named_by(&all[3..]), Some(NamedSource::GcloudDirectory { path: "/cfg".into() }));
        assert_eq!(named_by(&all[4..]), Some(NamedSource::Metadata { host: Some("127.0.0.1:1".into()) }));
        assert_eq!(named_by(&[("GOOGLE_APPLICATION_CREDENTIALS", "")]), None);
    }

    #[test]
    fn a_word_takes_what_google_s_variables_say_about_it() {
        let all = [("CLOUDSDK_CORE_ACCOUNT", "ci@example.test"), ("GCE_METADATA_HOST", "127.0.0.1:1")];
        let by = |word| named(Some(Path::new(word)), &all.into_iter().collect()).unwrap();
        let Some(NamedSource::Gcloud { variables }) = by("gcloud") else { panic!("gcloud") };
        assert_eq!(variables.get("CLOUDSDK_CORE_ACCOUNT"), Some("ci@example.test"));
        assert_eq!(by("metadata"), Some(NamedSource::Metadata { host: Some("127.0.0.1:1".into()) }));
    }

    #[test]
    fn a_value_that_cannot_be_read_is_an_error_and_never_counts_as_unset() {
        use std::os::unix::ffi::OsStringExt;
        let odd = std::ffi::OsString::from_vec(b"ci\xff".to_vec());
        for name in ["CLOUDSDK_CORE_ACCOUNT", "CLOUDSDK_CONFIG", "GCE_METADATA_HOST"] {
            let environment = [(name, odd.clone())].into_iter().collect();
            assert_eq!(named(None, &environment).unwrap_err().kind, Kind::Usage, "{name}");
        }
        let environment = [("GCE_METADATA_HOST", "user:hunter2@[")].into_iter().collect();
        assert!(!named(None, &environment).unwrap_err().one_line().contains("hunter2"));
    }

    #[test]
    fn a_key_in_the_place_of_a_path_is_refused_by_the_name_of_the_place() {
        let key = r#"{"type": "service_account", "client_email": "hunter2@acme", "private_key": "hunter2"}"#;
        let names = ["VALETKEY_CREDENTIAL", "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG"];
        for name in names.into_iter().chain(GcloudVariables::ACCOUNT) {
            let failure = named(None, &[(name, key)].into_iter().collect()).unwrap_err();
            assert_eq!((failure.kind, failure.message), (Kind::Usage, format!("{name}: {KEY}")));
        }
        let failure = named(Some(Path::new(key)), &Environment::default()).unwrap_err();
        assert_eq!(failure.message, format!("--credential: {KEY}"));
        // What does not decide is nobody's business here.
        let both = [("VALETKEY_CREDENTIAL", "/v.json"), ("GOOGLE_APPLICATION_CREDENTIALS", key)];
        assert_eq!(named_by(&both), Some(NamedSource::File { path: "/v.json".into() }));
    }

    #[test]
    fn a_relative_path_is_that_of_the_asking_process() {
        let Some(NamedSource::File { path }) = named_by(&[("GOOGLE_APPLICATION_CREDENTIALS", "k.json")])
        else {
            panic!("file")
        };
        assert!(path.is_absolute() && path.ends_with("k.json"));
    }
}
