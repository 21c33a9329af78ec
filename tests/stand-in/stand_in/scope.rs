//! The scopes that this Google knows, and how it words them on the consent page.

/// The scope that a full grant carries.
pub const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Enough to pull, not to upload.
pub const READ_ONLY: &str = "https://www.googleapis.com/auth/cloud-platform.read-only";
pub const USERINFO_EMAIL: &str = "https://www.googleapis.com/auth/userinfo.email";

/// The scopes of a parameter in the form in which they are granted: `email` in its long form, those about the
/// person first, each once. The error is what is wrong with them, in Google's words.
pub(super) fn parse(text: &str) -> Result<Vec<String>, String> {
    let asked: Vec<&str> = text.split_ascii_whitespace().collect();
    let (valid, invalid): (Vec<&str>, Vec<&str>) = asked.iter().partition(|scope| is_known(scope));
    if !invalid.is_empty() {
        let (valid, invalid) = (valid.join(", "), invalid.join(", "));
        return Err(format!("Some requested scopes were invalid. {{valid=[{valid}], invalid=[{invalid}]}}"));
    }
    let mut granted: Vec<String> = Vec::new();
    for scope in valid.iter().map(|scope| long_form(scope)) {
        if !granted.iter().any(|known| known == scope) {
            granted.push(scope.to_owned());
        }
    }
    granted.sort_by_key(|scope| IDENTITY.iter().position(|known| known == scope).unwrap_or(IDENTITY.len()));
    Ok(granted)
}

/// Whether a user may leave it out: everything but who they are.
pub(super) fn is_optional(scope: &str) -> bool {
    !IDENTITY.contains(&scope)
}

/// What a scope allows, for people.
pub(super) fn meaning(scope: &str) -> &'static str {
    match scope {
        "openid" => "Know that it is you",
        USERINFO_EMAIL => "Know your e-mail address",
        USERINFO_PROFILE => "Know your name and picture",
        CLOUD_PLATFORM => "See, change and delete what you have in Google Cloud",
        READ_ONLY => "See what you have in Google Cloud",
        _ => OTHERS.iter().find(|(known, _)| *known == scope).map_or("", |(_, meaning)| meaning),
    }
}

fn is_known(scope: &str) -> bool {
    !meaning(long_form(scope)).is_empty()
}

fn long_form(scope: &str) -> &str {
    match scope {
        "email" => USERINFO_EMAIL,
        "profile" => USERINFO_PROFILE,
        other => other,
    }
}

const USERINFO_PROFILE: &str = "https://www.googleapis.com/auth/userinfo.profile";
const IDENTITY: [&str; 3] = ["openid", USERINFO_EMAIL, USERINFO_PROFILE];
/// Those that gcloud and Artifact Registry's own clients ask for as well.
const OTHERS: [(&str, &str); 6] = [
    ("https://www.googleapis.com/auth/accounts.reauth", "Ask you to prove again who you are"),
    ("https://www.googleapis.com/auth/appengine.admin", "See and change your App Engine applications"),
    ("https://www.googleapis.com/auth/compute", "See and change your virtual machines"),
    ("https://www.googleapis.com/auth/devstorage.read_only", "See your files in Cloud Storage"),
    ("https://www.googleapis.com/auth/devstorage.read_write", "See and change your files in Cloud Storage"),
    ("https://www.googleapis.com/auth/sqlservice.login", "Sign in to your Cloud SQL instances"),
];
