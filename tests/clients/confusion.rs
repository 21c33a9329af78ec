//! Dependency confusion, with a real pip at the merged index: a public index offers everything, and in a higher
//! version, and whatever the private repository does, nothing of it is ever installed in the place of what is private.
//!
//! The daemon asks Google's hosts under their own names, and a proxy leads it to the stand-in, so that the registry's
//! API has its say.

use super::client::{Client, run, site};
use super::detour::Detour;
use super::harness::{Run, Sandbox};
use super::served::{Served, pip};
use super::stand_in::{Fault, Options, StandIn};

struct World {
    sandbox: Sandbox,
    public: StandIn,
    detour: Detour,
    client: Client,
}

const PAGE: &str = "/acme/private/simple/acme-hello/";

impl World {
    fn new() -> Option<Self> {
        let client = Client::find("pip-newest")?;
        let names = ["localhost", "europe-python.pkg.dev", "artifactregistry.googleapis.com"];
        let options = Options { names: names.map(str::to_owned).to_vec(), ..Options::default() };
        let sandbox = Sandbox::with(options);
        let public = StandIn::start(Options::default());
        public.open_to_all();
        for name in ["acme-hello", "acme-greeting", "acme-helo", "acmehello", "everybodys"] {
            public.add_package("pub", "lic", name, "99.0", &[]);
        }
        std::fs::write(sandbox.path("ca.pem"), sandbox.google.ca_pem() + &public.ca_pem()).unwrap();
        let detour = Detour::start(sandbox.google.port());
        Some(Self { sandbox, public, detour, client })
    }

    fn serve(&self, private: &str) -> Served<'_> {
        let public = self.public.index_url("pub", "lic");
        let index = format!(
            "[index]\nrepositories = [\"europe/acme/private\"]\nprivate = [{private}]\npublic = \"{public}\"\n"
        );
        Served::open_to_google(&self.sandbox, &self.detour.url, &index)
    }

    fn install(&self, port: &Served<'_>, requirement: &str) -> Run {
        let _ = std::fs::remove_dir_all(site(&self.sandbox));
        run(&self.sandbox, pip(&self.client, &self.sandbox, &port.merged()).arg(requirement))
    }

    /// What pip has put there, by the names of its records.
    fn installed(&self) -> Vec<String> {
        let entries = std::fs::read_dir(site(&self.sandbox)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".dist-info").map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// Nothing of the public index was installed, nor even asked for.
    #[track_caller]
    fn assert_nothing_public(&self, what: &str) {
        let installed = self.installed();
        assert!(!installed.iter().any(|name| name.contains("99.0")), "{what}: {installed:?}");
        assert!(self.public.registry_requests().is_empty(), "{what}: {:?}", self.public.registry_requests());
    }
}

#[test]
fn a_higher_version_in_the_public_index_is_not_installed_however_the_name_is_spelled() {
    let Some(world) = World::new() else { return };
    let port = world.serve("");
    for spelling in ["acme-hello", "Acme_Hello", "ACME.HELLO", "acme--hello", "acme-hello>=0.1"] {
        let run = world.install(&port, spelling);
        assert_eq!(run.code, Some(0), "{spelling}: {run:?}");
        assert_eq!(world.installed(), ["acme_greeting-1.0.0", "acme_hello-1.0.0"], "{spelling}");
        world.assert_nothing_public(spelling);
    }
    let run = world.install(&port, "acme-hello>=2");
    assert_ne!(run.code, Some(0), "{run:?}");
    world.assert_nothing_public("a version that only the public index has");
}

#[test]
fn a_public_name_is_installed_and_a_name_that_private_covers_is_not() {
    let Some(world) = World::new() else { return };
    let port = world.serve("\"Acme*\"");
    for name in ["acme-helo", "Acme.Helo", "acmehello"] {
        let run = world.install(&port, name);
        assert_ne!(run.code, Some(0), "{name}: {run:?}");
        world.assert_nothing_public(name);
    }
    let run = world.install(&port, "everybodys");
    assert_eq!((run.code, world.installed()), (Some(0), vec!["everybodys-99.0".to_owned()]), "{run:?}");
}

#[test]
fn whatever_befalls_the_private_repository_nothing_public_is_installed() {
    let Some(world) = World::new() else { return };
    let port = world.serve("");
    let google = &world.sandbox.google;
    let moved = world.public.index_url("pub", "lic") + "acme-hello/";
    for fault in [
        Fault::status(401),
        Fault::status(403),
        Fault::status(410),
        Fault::retry_after(429, 1),
        Fault::status(500),
        Fault::status(503),
        Fault::CloseAtOnce,
        Fault::HalfBody,
        Fault::Redirect { code: 302, location: moved },
    ] {
        let what = format!("{fault:?}");
        google.clear_registry_faults();
        google.registry_fault_always(PAGE, fault);
        let run = world.install(&port, "acme-hello");
        assert_ne!(run.code, Some(0), "{what}: {run:?}");
        world.assert_nothing_public(&what);
    }
}

#[test]
fn a_private_repository_that_hangs_lets_nothing_public_in() {
    let Some(world) = World::new() else { return };
    let port = world.serve("");
    world.sandbox.google.registry_fault_always(PAGE, Fault::Hang);
    let run = world.install(&port, "acme-hello");
    assert_ne!(run.code, Some(0), "{run:?}");
    world.assert_nothing_public("a hang");
}

/// 404 for every page: as of a package that is not there, and nobody but the API can tell.
#[test]
fn a_private_repository_that_is_gone_lets_nothing_public_in() {
    let Some(world) = World::new() else { return };
    let port = world.serve("");
    let google = &world.sandbox.google;
    google.registry_fault_always("/acme/private/", Fault::status(404));
    for fault in [Fault::status(403), Fault::status(404), Fault::status(429), Fault::status(500), Fault::Hang]
    {
        let what = format!("the API: {fault:?}");
        google.registry_fault("/v1/", fault);
        let run = world.install(&port, "acme-hello");
        assert_ne!(run.code, Some(0), "{what}: {run:?}");
        world.assert_nothing_public(&what);
    }
    google.remove_repository("acme", "private");
    for _ in 0..2 {
        let run = world.install(&port, "acme-hello");
        assert_ne!(run.code, Some(0), "{run:?}");
        world.assert_nothing_public("it is gone");
    }
}
