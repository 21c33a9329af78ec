use std::os::unix::ffi::OsStringExt;

use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE};
use proptest::prelude::*;

use super::*;

/// Plainly no key, in the form of one.
fn key() -> String {
    let body = STANDARD_PADDED.encode(noise(900));
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    serde_json::json!({
        "type": "service_account", "project_id": "acme", "private_key_id": "0123", "private_key": pem,
        "client_email": "builder@acme.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
    })
    .to_string()
}

/// Bytes that look random, and are the same each time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_be_bytes()[1]
    };
    (0..count).map(|_| next()).collect()
}

use base64::engine::general_purpose::STANDARD as STANDARD_PADDED;

fn pretty(key: &str) -> String {
    serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(key).unwrap()).unwrap()
}

/// What people really put there.
fn keys() -> Vec<String> {
    let key = key();
    let pretty = pretty(&key);
    let pem =
        serde_json::from_str::<serde_json::Value>(&key).unwrap()["private_key"].as_str().unwrap().to_owned();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let encoded = STANDARD_PADDED.encode(&key);
    let wrapped =
        encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>();
    let user = r#"{"type":"authorized_user","refresh_token":"1//0gAbCdEfGh","client_secret":"GOCSPX-x"}"#;
    vec![
        key.clone(),
        pretty.clone(),
        format!("'{key}'"),
        format!("\u{feff} {key}\n"),
        key.replace('"', ""),
        key.replace('"', "\\\""),
        key[..200].to_owned(),
        key[60..].to_owned(),
        "{".to_owned(),
        format!("/{key}"),
        pem.clone(),
        pem.replace('\n', " "),
        pem.replace('\n', "\\n"),
        format!("{}{body}", STANDARD_PADDED.encode(DER_HEAD)),
        encoded.clone(),
        encoded[..encoded.len() - 3].to_owned(),
        encoded.trim_end_matches('=').to_owned(),
        wrapped.join("\n"),
        STANDARD_PADDED.encode(&pretty),
        STANDARD_NO_PAD.encode(&pretty),
        URL_SAFE.encode(&key),
        STANDARD_PADDED.encode(&pem),
        STANDARD_PADDED.encode(&encoded),
        format!("base64:{encoded}"),
        format!("data:application/json;base64,{encoded}"),
        url::form_urlencoded::byte_serialize(key.as_bytes()).collect(),
        user.to_owned(),
        STANDARD_PADDED.encode(user),
        format!("ya29.{}", URL_SAFE.encode(noise(60))),
        format!("1//0{}", URL_SAFE.encode(noise(40))),
        "GOCSPX-abcdefghijklmnopqrstuvwxyz01".to_owned(),
        format!(
            "{}.{}.{}",
            STANDARD_NO_PAD.encode(r#"{"alg":"RS256"}"#),
            STANDARD_NO_PAD.encode(r#"{"iss":"x"}"#),
            URL_SAFE.encode(noise(64))
        ),
        STANDARD_PADDED.encode([&GZIP[..], &noise(400)].concat()),
        "x".repeat(300),
        "a/".repeat(2100),
        URL_SAFE.encode(noise(120)),
    ]
}

const DER_HEAD: [u8; 6] = [0x30, 0x82, 0x04, 0xbd, 0x02, 0x01];

/// Pieces of a secret that would be enough to know it again.
fn pieces(secret: &str) -> impl Iterator<Item = &str> {
    secret.as_bytes().windows(24).step_by(7).filter_map(|piece| std::str::from_utf8(piece).ok())
}

#[test]
fn a_key_in_the_place_of_its_path_is_known_and_never_shown() {
    for key in keys() {
        assert!(is_key(OsStr::new(&key)), "{key}");
        // Where a path is wanted these are none, and yet no secret.
        let is_odd = key.len() < 24 || key.starts_with(['x', 'a']);
        assert!(is_odd || shown(&key) == HIDDEN, "{key}");
        let failure = refuse_key("VALETKEY_CREDENTIAL", OsStr::new(&key)).unwrap_err();
        assert_eq!(failure.message, format!("VALETKEY_CREDENTIAL: {KEY}"));
    }
    let odd = std::ffi::OsString::from_vec([key().as_bytes(), b"\xff"].concat());
    assert!(is_key(&odd));
}

#[test]
fn whoever_tells_of_a_key_tells_none_of_it() {
    for key in keys().into_iter().filter(|key| key.len() >= 24 && !key.starts_with(['x', 'a'])) {
        for told in [
            format!("cannot read the credential file {key}"),
            format!("cannot read the credential file /home/dev/{key}: No such file"),
            format!("{key:?} is not a path"),
            format!("invalid type: string {key:?}, expected a boolean"),
            format!("invalid value '{key}' for '--index <REPO>'"),
        ] {
            let said = Failure::new(Kind::Usage, &told).with_hint(&told).with_cause(&told).one_line();
            for piece in pieces(key.strip_prefix("data:application/json;base64,").unwrap_or(&key)) {
                assert!(!said.contains(piece), "{piece:?} of {key:?} in {said:?}");
            }
        }
    }
}

#[test]
fn paths_are_paths() {
    for path in [
        "",
        "/home/dev/key.json",
        "key.json",
        "../keys/reader key.json",
        "~/key.json",
        "/home/dev/{work}/key.json",
        "./{a}/key.json",
        "/home/J\u{f6}rg/Schl\u{fc}ssel.json",
        "example/keys/production",
        "eyes/ewe/key",
        "exampleexampleexample",
        "/run/secrets/kubernetes.io/serviceaccount/token",
        "/nix/store/0c5r2pbn4ab2rx5hbpqm1ypd1gh4d4mx-key/acme.json",
        "/var/lib/docker/overlay2/4f5ed6e1b0a29a4b3c7e1d0f2a6b8c9d4f5ed6e1b0a29a4b3c7e1d0f2a6b8c9d/merged/key",
        "/home/dev/MyCompanyProductionServiceAccountKeyForArtifactRegistry2024.json",
        "C:\\Users\\dev\\AppData\\Local\\Packages\\PythonSoftwareFoundation.Python.3.11_qbz5n2kfra8p0\\key.json",
        "/Users/Dev/Library/Application-Support/Google/Cloud-SDK/Keys2024/Acme/Reader/Production/key",
        "acme-prod-0123456789ab.json",
        "3f2504e0-4f89-11d3-9a0c-0305e82cb3d3.json",
        "gcloud",
        "metadata",
        "reader@acme.iam.gserviceaccount.com",
    ] {
        assert!(!is_key(OsStr::new(path)), "{path}");
        assert_eq!(shown(path), short(path), "{path}");
        assert_eq!(redacted(path), path);
    }
}

#[test]
fn of_a_value_at_most_eighty_characters_are_shown() {
    assert_eq!(shown(&"é ".repeat(100)), format!("{}…", "é ".repeat(40)));
    assert_eq!(shown(&"a".repeat(80)), "a".repeat(80));
    assert_eq!(shown("a\u{1b}[2Jb"), "a [2Jb");
    let long = format!("/{}", "ab/".repeat(60));
    assert_eq!(shown_path(Path::new(&long)).chars().count(), MOST + 1);
    let told =
        format!("unknown field `{}`, expected `a` or \"b \\\" {}\" or c", "x".repeat(99), "y".repeat(99));
    let kept = quoting(&told);
    assert!(!kept.contains(&"x".repeat(81)) && !kept.contains(&"y".repeat(81)), "{kept}");
    assert!(kept.starts_with("unknown field `xxx") && kept.ends_with(" or c"), "{kept}");
}

#[test]
fn passwords_and_tokens_are_taken_out_and_the_rest_stays() {
    for (text, left) in [
        ("see https://dev:hunter2@h.test/p?x=1", "see https://dev:(hidden)@h.test/p?x=1"),
        ("https://:hunter2@h.test/", "https://:(hidden)@h.test/"),
        ("https://dev:hun/ter@2@h.test/x", "https://dev:(hidden)@h.test/x"),
        ("\"dev:hunter2@h.test/p/r\" is none", "\"dev:(hidden)@h.test/p/r\" is none"),
        ("https://dev@h.test:8443/p/x@y", "https://dev@h.test:8443/p/x@y"),
        ("http://h.test:3128/a@b", "http://h.test:3128/a@b"),
        (
            "https://h.test/f?X-Goog-Signature=ab12/%2Bcd&y=1",
            "https://h.test/f?X-Goog-Signature=(hidden)&y=1",
        ),
        ("https://h.test/f?access_token=hunter2#x", "https://h.test/f?access_token=(hidden)#x"),
        ("the token ya29.a0-b_c.d is refused", "the token (hidden) is refused"),
        ("Bearer ya29.hunter2", "Bearer (hidden)"),
        ("client_secret=GOCSPX-hunter2, and", "client_secret=(hidden), and"),
        ("{\"a\": {\"b\": 1}} is no path", "(hidden) is no path"),
        ("-----BEGIN RSA PRIVATE KEY-----", "(hidden)"),
    ] {
        assert_eq!(redacted(text), left);
    }
    for text in [
        "run `valetkey login --write --account me@corp.example` to publish with it",
        "add to config.toml: [build] repositories = [\"https://localhost:8443/acme/private\"]",
        "cannot reach https://oauth2.googleapis.com/token: connection refused",
        "the body is not a question for a credential: invalid type: map, expected a string at line 1 column 9",
        "use {} or { a = 1 }, attempt 4/05, 1//0",
        "sha256:4f5ed6e1b0a29a4b3c7e1d0f2a6b8c9d4f5ed6e1b0a29a4b3c7e1d0f2a6b8c9d",
        "docker.europe-west1.rep.pkg.dev/v2/acme/private",
        "sign in with the client 1234567890-abcdefghijklmnopqrstuvwxyz012345.apps.googleusercontent.com",
    ] {
        assert_eq!(redacted(text), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn whatever_is_shown_is_short_and_nothing_panics(text in "\\PC{0,120}", json in "[{}\"':@/=?&a-zA-Z0-9.+_-]{0,200}") {
        for text in [text, json] {
            prop_assert!(shown(&text).chars().count() <= MOST + 1);
            let once = redacted(&text);
            let _ = (redacted(&once), quoting(&text), refuse_key("x", OsStr::new(&text)));
        }
    }

    #[test]
    fn json_of_a_credential_is_known_however_it_is_encoded(
        member in "[a-z_]{1,20}", value in "[a-zA-Z0-9/+=@. -]{8,60}", spaces in "[ \n\t]{0,6}", twice in any::<bool>(),
    ) {
        let text = format!("{spaces}{{{spaces}\"{member}\"{spaces}: \"{value}\"}}{spaces}");
        let mut encoded = STANDARD_PADDED.encode(&text);
        if twice {
            encoded = URL_SAFE.encode(&encoded);
        }
        prop_assert!(is_key(OsStr::new(&text)));
        prop_assert!(encoded.len() < SHORTEST_ENCODED || is_key(OsStr::new(&encoded)), "{}", encoded);
        let told = format!("no file {encoded}");
        prop_assert!(encoded.len() < SHORTEST_ENCODED || !redacted(&told).contains(&encoded), "{}", told);
    }

    #[test]
    fn a_path_of_plain_words_is_never_taken_for_a_key(path in "(/[a-z]{1,12}([-_.][a-z0-9]{1,8})?){1,6}") {
        prop_assert!(!is_key(OsStr::new(&path)), "{}", path);
        prop_assert_eq!(redacted(&path), path);
    }
}
