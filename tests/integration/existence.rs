//! Whether a repository exists, by Google's API: only then does a name go on to the public index. The daemon asks under
//! Google's own names, and a proxy leads it to the stand-in.

use super::detour::Detour;
use super::harness::{Daemon, Sandbox};
use super::passing::{Answer, exchange};
use super::stand_in::{Authorization, Fault, Options, RegistryRequest, StandIn};
use super::whose::whose;

const API: &str = "/v1/projects/acme/locations/europe/repositories/private";

/// A private repository in Europe, and a public index behind it that has everything.
struct World {
    sandbox: Sandbox,
    public: StandIn,
    detour: Detour,
}

impl World {
    /// `endpoint` is what the configuration says of the API.
    fn new(endpoint: &str) -> Self {
        let names = ["localhost", "europe-python.pkg.dev", "artifactregistry.googleapis.com"];
        let names = names.map(str::to_owned).to_vec();
        let sandbox = Sandbox::with(Options { names, ..Options::default() });
        let public = StandIn::start(Options::default());
        public.open_to_all();
        for name in ["acme-hello", "everybodys", "another"] {
            public.add_package("pub", "lic", name, "99.0", &[]);
        }
        std::fs::write(sandbox.path("ca.pem"), sandbox.google.ca_pem() + &public.ca_pem()).unwrap();
        sandbox.configure(&format!(
            "[index]\nrepositories = [\"europe/acme/private\"]\npublic = \"{}\"\n",
            public.index_url("pub", "lic")
        ));
        sandbox.configure_endpoint(endpoint);
        sandbox.sign_in();
        let detour = Detour::start(sandbox.google.port());
        Self { sandbox, public, detour }
    }

    fn google() -> Self {
        Self::new("artifact_registry = \"https://artifactregistry.googleapis.com\"")
    }

    fn serve(&self) -> Daemon<'_> {
        self.sandbox.serve_with(self.sandbox.valetkey().env("HTTPS_PROXY", &self.detour.url))
    }

    fn get(&self, path: &str) -> Answer {
        self.get_with(path, "")
    }

    fn get_with(&self, path: &str, header: &str) -> Answer {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: text/html\r\n{header}\r\n"
        );
        Answer::read(&exchange(&self.sandbox, head.as_bytes()), false)
    }

    fn asked_api(&self) -> Vec<RegistryRequest> {
        let requests = self.sandbox.google.registry_requests();
        requests.into_iter().filter(|request| request.path.starts_with("/v1/")).collect()
    }

    #[track_caller]
    fn assert_withheld(&self, answer: &Answer, word: &str) {
        assert!(answer.status > 404, "{word}: {answer:?}");
        let problem = answer.problem();
        assert!(problem["detail"].as_str().unwrap().contains(word), "{word}: {problem}");
        assert!(self.public.registry_requests().is_empty(), "{word}");
    }
}

#[test]
fn a_name_goes_on_where_the_api_knows_the_repository_and_it_is_asked_once() {
    let world = World::google();
    let _daemon = world.serve();
    for name in ["everybodys", "another", "everybodys"] {
        let page = world.get(&format!("/simple/{name}/"));
        assert_eq!((page.status, page.whole), (200, true), "{page:?}");
        assert!(page.text().contains("99.0"));
    }
    let asked = world.asked_api();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((asked[0].path.as_str(), &asked[0].authorization), (API, &Authorization::Bearer));
    assert_eq!(asked[0].header("host"), Some("artifactregistry.googleapis.com"));
    let private = world.get("/simple/acme-hello/");
    assert!(private.status == 200 && !private.text().contains("99.0"), "{private:?}");
}

/// A registry may hide from one identity what another may read, by the very answer that says that a name is free.
#[test]
fn what_one_identity_has_seen_proves_nothing_for_another() {
    let world = World::google();
    let _daemon = world.serve();
    for name in ["acme-hello", "everybodys"] {
        assert_eq!(world.get(&format!("/simple/{name}/")).status, 200);
    }
    let public = world.public.registry_requests().len();
    world.sandbox.google.registry_fault_always("/v1/", Fault::status(403));
    let whose = whose(&world.sandbox.service_account());
    let other = world.get_with("/simple/everybodys/", &format!("valetkey-whose: {whose}\r\n"));
    assert!(other.status > 404, "{other:?}");
    assert_eq!(world.public.registry_requests().len(), public);
    assert_eq!(world.get("/simple/everybodys/").status, 200);
}

#[test]
fn what_was_seen_before_another_sign_in_is_asked_for_again() {
    let world = World::google();
    let daemon = world.serve();
    let known = |asked: usize| {
        assert_eq!(world.get("/simple/everybodys/").status, 200);
        assert_eq!(world.asked_api().len(), asked, "{}", daemon.log());
    };
    known(1);
    known(1);
    world.sandbox.sign_in();
    known(2);
    assert_eq!(world.sandbox.run(world.sandbox.valetkey().arg("reload")).code, Some(0));
    known(3);
}

#[test]
fn a_repository_that_is_gone_keeps_its_names() {
    let world = World::google();
    let _daemon = world.serve();
    world.sandbox.google.remove_repository("acme", "private");
    // Where its pages are 404, as those of packages that are not there.
    world.sandbox.google.registry_fault_always("/acme/private/", Fault::status(404));
    for _ in 0..3 {
        world.assert_withheld(&world.get("/simple/acme-hello/"), "is no Python repository");
    }
    assert_eq!(world.asked_api().len(), 1);
}

#[test]
fn whatever_else_the_api_answers_the_public_page_is_not_given() {
    let world = World::google();
    let daemon = world.serve();
    let disabled =
        r#"{"error":{"code":403,"status":"PERMISSION_DENIED","details":[{"reason":"SERVICE_DISABLED"}]}}"#;
    let other = r#"{"name":"projects/acme/locations/europe/repositories/other","format":"PYTHON"}"#;
    let json = |status: u16, text: &str| Fault::Body { status, text: text.to_owned() };
    let elsewhere = format!("{}/yes", world.public.origin());
    for (fault, word) in [
        (Fault::status(401), "status 401"),
        (Fault::status(403), "status 403"),
        (json(403, disabled), "403 (SERVICE_DISABLED)"),
        (Fault::status(404), "a 404 that is not its own"),
        (json(404, "<html>"), "a 404 that is not its own"),
        (Fault::retry_after(429, 1), "status 429"),
        (Fault::status(500), "status 500"),
        (Fault::status(503), "status 503"),
        (Fault::CloseAtOnce, "broke off"),
        (Fault::HalfBody, "broke off"),
        (Fault::Hang, "did not answer within"),
        (Fault::HalfThenSilence, "did not answer within"),
        (Fault::HugeBody(8 << 20), "more than 1048576 bytes"),
        (Fault::Redirect { code: 302, location: elsewhere }, "status 302"),
        (Fault::not_json(), "something that is no repository"),
        (json(200, "{}"), "something that is no repository"),
        (json(200, other), "another repository"),
        (
            json(200, &other.replace("other", "private").replace("PYTHON", "DOCKER")),
            "is no Python repository",
        ),
    ] {
        world.sandbox.google.clear_registry_faults();
        world.sandbox.google.registry_fault_always("/v1/", fault);
        world.assert_withheld(&world.get("/simple/everybodys/"), word);
    }
    Sandbox::wait_until("the log says why", || daemon.log().contains("SERVICE_DISABLED"));
}

/// Google is asked for nothing with the token of another server.
#[test]
fn without_an_api_a_repository_has_to_have_been_seen() {
    let world = World::new("");
    let _daemon = world.serve();
    world.assert_withheld(&world.get("/simple/everybodys/"), "has not been seen to exist");
    assert_eq!(world.get("/simple/acme-hello/").status, 200);
    assert_eq!(world.get("/simple/everybodys/").status, 200);
    assert!(world.asked_api().is_empty());
}

#[test]
fn an_api_that_fails_does_not_stop_a_repository_that_was_seen() {
    let world = World::new("artifact_registry = \"https://artifactregistry.googleapis.com/\"");
    let _daemon = world.serve();
    world.sandbox.google.registry_fault_always("/v1/", Fault::status(403));
    assert_eq!(world.get("/simple/acme-hello/").status, 200);
    assert_eq!(world.get("/simple/everybodys/").status, 200);
    assert!(world.asked_api().is_empty());
}
