//! Which variables name the certificates that a tool trusts, and which bundle is in force for each: ours is that one
//! with the run's own authority behind it.
//!
//! No variable is enough by itself (what was run with real clients): pip before 24.2, requests and poetry read
//! `REQUESTS_CA_BUNDLE` and not `SSL_CERT_FILE`; uv, Go and a pip with truststore the other way round; curl the second
//! and its own.

use std::path::PathBuf;

use crate::environment::Environment;
use crate::http::named::bundle;
use crate::wiring::files::Files;

/// What a variable has to name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    pub variable: &'static str,
    pub base: Base,
}

/// What the run's own authority is added to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// Nothing: the tool adds what it is told to what it trusts anyway.
    Nothing,
    /// The system's certificates.
    System,
    /// A file, or a directory of files, that the user named.
    Named(PathBuf),
}

/// Every variable and its base.
#[must_use]
pub fn bundles(environment: &Environment, files: &Files) -> Vec<Trust> {
    let mut found = Vec::new();
    for (variable, others) in ALWAYS {
        let own = bundle(environment, variable).or_else(|| match *variable {
            "PIP_CERT" => files.pip.bundle.clone(),
            "CARGO_HTTP_CAINFO" => files.cargo.bundle.clone(),
            _ => None,
        });
        let named = own.or_else(|| others.iter().find_map(|other| environment.path(other)));
        found.push(Trust { variable, base: named.map_or(Base::System, Base::Named) });
    }
    let wget = files.wget.bundle.clone().map_or(Base::System, Base::Named);
    found.push(Trust { variable: WGET, base: wget });
    found.push(Trust { variable: APT, base: Base::System });
    let extra = environment.path(NODE).map_or(Base::Nothing, Base::Named);
    found.push(Trust { variable: NODE, base: extra });
    for variable in WHERE_SET {
        let file = match variable {
            NPM => files.npm.bundle.clone(),
            YARN => files.yarn.bundle.clone(),
            _ => None,
        };
        if let Some(path) = bundle(environment, variable).or(file) {
            found.push(Trust { variable, base: Base::Named(path) });
        }
    }
    found
}

/// A variable, and the others whose bundle its readers would take without it.
const ALWAYS: &[(&str, &[&str])] = &[
    ("SSL_CERT_FILE", &[]),
    ("REQUESTS_CA_BUNDLE", &["CURL_CA_BUNDLE"]),
    ("PIP_CERT", &["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"]),
    ("CURL_CA_BUNDLE", &["SSL_CERT_FILE"]),
    ("GIT_SSL_CAINFO", &[]),
    ("CARGO_HTTP_CAINFO", &["SSL_CERT_FILE"]),
    ("AWS_CA_BUNDLE", &["REQUESTS_CA_BUNDLE"]),
];
/// Adds to what Node trusts.
const NODE: &str = "NODE_EXTRA_CA_CERTS";
/// These win over the ones above where they are set, and change too much where they are not.
const WHERE_SET: [&str; 4] = ["NIX_SSL_CERT_FILE", "NPM_CONFIG_CAFILE", NPM, YARN];
const YARN: &str = "YARN_HTTPS_CA_FILE_PATH";
/// No variables, but what stands in the files that these two are given.
pub const WGET: &str = "wget's ca_certificate";
pub const APT: &str = "apt's CaInfo";
const NPM: &str = "npm_config_cafile";

#[cfg(test)]
mod tests {
    use super::*;

    fn base(pairs: &[(&str, &str)], file: Option<&str>, variable: &str) -> Option<Base> {
        let environment: Environment = pairs.iter().copied().collect();
        let mut files = Files::default();
        files.pip.bundle = file.map(PathBuf::from);
        files.npm.bundle = file.map(PathBuf::from);
        let found = bundles(&environment, &files);
        found.into_iter().find(|trust| trust.variable == variable).map(|trust| trust.base)
    }

    #[test]
    fn the_bundle_in_force_is_the_base() {
        let named = |path: &str| Some(Base::Named(path.into()));
        let corp = [("REQUESTS_CA_BUNDLE", "/corp.pem"), ("SSL_CERT_FILE", "/own.pem")];
        for (pairs, file, variable, wanted) in [
            (&[][..], None, "SSL_CERT_FILE", Some(Base::System)),
            (&[], None, "NODE_EXTRA_CA_CERTS", Some(Base::Nothing)),
            (&[], None, "NPM_CONFIG_CAFILE", None),
            (&corp, None, "SSL_CERT_FILE", named("/own.pem")),
            (&corp, None, "REQUESTS_CA_BUNDLE", named("/corp.pem")),
            (&corp, None, "PIP_CERT", named("/corp.pem")),
            (&corp, Some("/pip.pem"), "PIP_CERT", named("/pip.pem")),
            (&corp, None, "CURL_CA_BUNDLE", named("/own.pem")),
            (&corp, None, "GIT_SSL_CAINFO", Some(Base::System)),
            (&[("CURL_CA_BUNDLE", "/c.pem")], None, "REQUESTS_CA_BUNDLE", named("/c.pem")),
            (&[("PIP_CERT", "~/p.pem"), ("HOME", "/h")], None, "PIP_CERT", named("/h/p.pem")),
            (&[("PIP_CERT", "/p.pem")], Some("/pip.pem"), "PIP_CERT", named("/p.pem")),
            (&[("NODE_EXTRA_CA_CERTS", "/n.pem")], None, "NODE_EXTRA_CA_CERTS", named("/n.pem")),
            (&[], Some("/npm.pem"), "npm_config_cafile", named("/npm.pem")),
            (&[("npm_config_cafile", "/n.pem")], None, "npm_config_cafile", named("/n.pem")),
        ] {
            assert_eq!(base(pairs, file, variable), wanted, "{pairs:?} {file:?} {variable}");
        }
    }
}
