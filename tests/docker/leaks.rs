//! The leak hunt finds what is there: each place and each form, planted, and the two ways in which people give a
//! token to pip in a build today.

use std::os::unix::fs::MetadataExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::buildah::Buildah;
use super::engine::{Built, Engine, Exported, Release};
use super::harness::Sandbox;
use super::harness::hunt::{Place, hunt, hunt_since};
use super::machine::{Machine, PYTHON};
use super::scene::{args, step};

/// Looks like one, and is worth nothing.
fn secret() -> String {
    format!("ya29.planted/{:x}+{:x}=", rand::random::<u128>(), rand::random::<u64>())
}

/// All that a build leaves for others to see, but the engine's own stores.
fn left(built: &Built, exported: &Exported) -> [Place; 2] {
    [Place::Text("the build's log".to_owned(), built.log.clone().into_bytes()), exported.place()]
}

#[test]
fn a_planted_secret_is_found_in_every_place() {
    for engine in Engine::all() {
        let base = engine.small();
        let plant = |step: &str, secret: &str| {
            let step = step.replace("SECRET", secret);
            let built = engine.build(&format!("FROM {base}\n{step}\n"), &[], &[]);
            built.assert_success();
            let exported = engine.export(&built.image);
            (hunt(&left(&built, &exported), &[secret]), built)
        };
        for (what, step) in [
            ("a layer", "RUN printf %s 'SECRET' >/leak"),
            ("a lower layer", "RUN printf %s 'SECRET' >/leak\nRUN rm /leak"),
            ("an archive in a layer", "RUN printf %s 'SECRET' | gzip >/leak.gz"),
            ("the environment", "ENV TOKEN=SECRET"),
            ("the history", "RUN true 'SECRET'"),
            ("a label", "LABEL token=SECRET"),
        ] {
            let (found, built) = plant(step, &secret());
            assert!(!found.is_empty(), "{} hides {what}: {}", engine.version, built.log);
        }
        // Split, so that only the output holds the whole.
        let (one, two) = (secret(), secret());
        let whole = format!("{one}{two}");
        let step = format!("FROM {base}\nRUN printf %s '{one}'; printf '%s\\n' '{two}'\n");
        let built = engine.build(&step, &[], &[]);
        built.assert_success();
        let log = Place::Text("log".to_owned(), built.log.clone().into_bytes());
        assert_eq!(hunt(&[log], &[&whole]).len(), 1, "{}", built.log);
        assert_eq!(hunt(&[engine.export(&built.image).place()], &[&whole]).len(), 0, "nor anywhere else");
    }
}

#[test]
fn a_planted_secret_is_found_in_the_engines_own_stores() {
    for engine in Engine::all() {
        let secret = secret();
        // Reversed on its way, so that neither the command nor the Dockerfile holds it.
        let reversed: String = secret.chars().rev().collect();
        let dockerfile = format!(
            "FROM {}\nRUN --mount=type=cache,target=/cache printf %s '{reversed}' | rev >/cache/leak\n",
            engine.small()
        );
        assert!(hunt(&engine.stores(), &[&secret]).is_empty());
        let built = engine.build(&dockerfile, &[], &[]);
        built.assert_success();
        let exported = engine.export(&built.image);
        assert!(hunt(&left(&built, &exported), &[&secret]).is_empty(), "it is in the cache only");
        assert_eq!(hunt(&engine.stores(), &[&secret]).len(), 1, "{}", engine.version);
    }
}

#[test]
fn a_planted_secret_is_found_in_what_buildah_makes() {
    let Some(buildah) = Buildah::find() else { return };
    let secret = secret();
    let dockerfile =
        format!("FROM {}\nRUN printf %s '{secret}' | gzip >/leak.gz\nENV X=y\n", buildah.small());
    let built = buildah.build(&dockerfile, &[], &[]);
    built.assert_success();
    assert!(hunt(&[buildah.export(&built.image).place()], &[&secret]).len() >= 2, "layer and history");
    assert!(!hunt(&buildah.stores(), &[&secret]).is_empty());
}

#[test]
fn a_secret_is_found_in_every_form() {
    let secret = secret();
    let hex = |text: &str| text.bytes().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let url: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    for form in [
        secret.clone(),
        format!("Basic {}", STANDARD.encode(format!("oauth2accesstoken:{secret}"))),
        STANDARD.encode(format!("_token:{secret}")),
        STANDARD.encode(format!("{secret}\n")),
        STANDARD.encode(format!("\n\n{secret}\n")),
        STANDARD.encode(&secret).replace('+', "-").replace('/', "_"),
        hex(&secret),
        hex(&secret).to_uppercase(),
        format!("https://oauth2accesstoken:{url}@localhost/simple/"),
        format!("\"{}\"", secret.replace('/', "\\/")),
    ] {
        let place =
            |text: &str| [Place::Text("here".to_owned(), format!("before {text} behind").into_bytes())];
        assert_eq!(hunt(&place(&form), &[&secret]).len(), 1, "{form}");
        let mut damaged = form.into_bytes();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        assert!(hunt(&place(&String::from_utf8(damaged).unwrap()), &[&secret]).is_empty());
    }
}

/// pip's own way, with the token that valetkey gives: first as people do it, which leaks, then from a mounted file,
/// which does not. A build that hands over no token at all has to look like the second.
#[test]
fn a_token_in_a_build_argument_is_found_and_one_in_a_mounted_file_leaves_nothing() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    for (is_argument, leaks) in [(true, true), (false, false)] {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        let token = sandbox.run(&mut sandbox.get()).stdout.trim().to_owned();
        let install = "pip install --no-cache-dir --break-system-packages --cert /ca.pem --index-url";
        let url = sandbox.index();
        let (step, mut flags) = if is_argument {
            let with = url.replace("https://", "https://oauth2accesstoken:$TOKEN@");
            (
                format!("ARG TOKEN\nRUN {install} {with} acme-hello"),
                vec!["--build-arg".to_owned(), format!("TOKEN={token}")],
            )
        } else {
            let netrc = format!("machine localhost login oauth2accesstoken password {token}\n");
            let file = sandbox.write("home/netrc", &netrc);
            let step =
                format!("RUN --mount=type=secret,id=netrc,target=/root/.netrc {install} {url} acme-hello");
            (step, vec!["--secret".to_owned(), format!("id=netrc,src={}", file.display())])
        };
        flags.extend(["--network".to_owned(), "host".to_owned()]);
        let check = "RUN python3 -c 'import acme_hello; print(acme_hello.MESSAGE)'";
        let dockerfile = format!("FROM {}\nCOPY ca.pem /\n{step}\n{check}\n", engine.base());
        let built = engine.build(&dockerfile, &[("ca.pem", sandbox.google.ca_pem().as_bytes())], &flags);
        built.assert_success();
        let exported = engine.export(&built.image);
        let mut places = Vec::from(left(&built, &exported));
        places.extend(engine.stores());
        let found = hunt(&places, &sandbox.google.secrets());
        assert_eq!(!found.is_empty(), leaks, "{found:?}");
    }
}

#[test]
fn what_was_written_since_a_secret_came_to_be_is_searched_for_it() {
    let (secret, directory) = (secret(), tempfile::tempdir().unwrap());
    std::fs::write(directory.path().join("file"), &secret).unwrap();
    let written = directory.path().join("file").metadata().unwrap().ctime();
    let found = |since| hunt_since(since, &[Place::Path(directory.path().to_owned())], &[&secret]).len();
    assert_eq!([found(written - 60), found(written), found(written + 60)], [1, 1, 0]);
}

/// The two ways in which a token is in a step, because somebody wanted it there: none of it stays.
#[test]
fn a_token_that_was_let_into_a_step_is_nowhere_afterwards() {
    let (Some(engine), Some(machine)) = (Engine::of(Release::Installed), Machine::new()) else { return };
    engine.valetkey();
    let _daemon = machine.serve_with_key();
    let sandbox = &machine.scene.sandbox;
    let index = format!("https://{PYTHON}/acme/private/simple/");
    let get = format!("keyring get {index} oauth2accesstoken");
    let none = ["--network", "none"].map(str::to_owned);

    let flags = args(sandbox, &["--tokens", "europe-west1/acme/private"]);
    let pip = format!("pip install --no-cache-dir --break-system-packages --index-url {index} acme-hello");
    let exec = step(&format!("valetkey exec -- sh -c '{get} | wc -c && {pip}'"));
    let text = format!("FROM {}\n{exec}", engine.base());
    let built = machine.scene.build(engine, &text, &[], &[flags, none.to_vec()].concat());
    assert!(
        built.log.contains("Successfully installed acme-greeting-1.0.0 acme-hello-1.0.0"),
        "{}",
        built.log
    );

    let mut command = sandbox.valetkey();
    let token = sandbox.run(command.args(["token", "--format", "json"]));
    assert_eq!(token.code, Some(0), "{token:?}");
    let file = sandbox.write("home/token.json", &token.stdout);
    let flags = vec!["--secret".to_owned(), format!("id=valetkey,src={}", file.display())];
    let text = format!(
        "FROM {}\nRUN --mount=type=secret,id=valetkey \
         --mount=from=valetkey.invalid/valetkey,source=/keyring,target=/usr/local/sbin/keyring \
         echo \"<length> $({get} | wc -c)\"\n",
        engine.base()
    );
    let built = machine.scene.build(engine, &text, &[], &[flags, none.to_vec()].concat());
    // The line break is keyring's.
    let length =
        sandbox.google.secrets().iter().find(|secret| secret.starts_with("ya29.")).unwrap().len() + 1;
    assert!(built.log.contains(&format!("<length> {length}")), "{}", built.log);
}

/// A hunt must be affordable after each build.
#[test]
fn every_file_of_a_base_image_is_read() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let exported = engine.export(engine.base());
    let mut hunter = super::harness::hunt::Hunt::new(&[secret()]);
    let Place::Path(path) = exported.place() else { panic!("a directory") };
    hunter.search_path(&path, &[]);
    assert!(hunter.files > 3000, "only {} files were read", hunter.files);
    assert!(hunter.found.is_empty(), "{:?}", hunter.found);
}
