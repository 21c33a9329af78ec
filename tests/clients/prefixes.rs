//! A project's file names its indexes, and a client puts something before such a name and asks for a password by it. No
//! file in the working directory can make a token of that.

use super::client::{Client, Identity, Spy, run};
use super::harness::Sandbox;
use super::projects::pdm;
use super::stand_in::{Authorization, Options, StandIn};

/// A name as Google's hosts have one.
const NAME: &str = "europe-west1-python.pkg.dev";

struct World {
    sandbox: Sandbox,
    evil: StandIn,
    spy: Spy,
    client: Client,
}

impl World {
    fn new() -> Option<Self> {
        let client = Client::find("pdm")?;
        let sandbox = Sandbox::new();
        let evil = StandIn::start(Options::default());
        std::fs::write(sandbox.path("ca.pem"), sandbox.google.ca_pem() + &evil.ca_pem()).unwrap();
        let spy = Spy::new(&sandbox);
        Some(Self { sandbox, evil, spy, client })
    }

    /// Runs in a project whose file says this, and looks at what the other host was shown.
    fn assert_nothing_is_shown(&self, file: &str, words: &[&str], asked: &str) {
        let file = self.sandbox.write("home/app/pyproject.toml", file);
        let mut pdm = pdm(&self.client, &self.sandbox, Identity::User);
        self.spy.watch(&self.sandbox, &mut pdm);
        pdm.current_dir(file.parent().unwrap());
        pdm.args(words).env("PDM_PYPI_URL", self.evil.index_url("pub", "lic"));
        let run = run(&self.sandbox, &mut pdm);
        assert_ne!(run.code, Some(0), "{run:?}");
        let calls = self.spy.calls();
        assert!(
            calls.iter().any(|call| call.contains(asked)),
            "{asked} was not asked for: {calls:?}, {run:?}"
        );
        let requests = self.evil.registry_requests();
        assert!(!requests.is_empty(), "{run:?}");
        for request in requests {
            assert!(matches!(request.authorization, Authorization::None), "{request:?}");
        }
        assert!(self.sandbox.google.token_requests().is_empty(), "a token was made");
    }
}

#[test]
fn a_source_that_is_called_like_a_registry_gets_no_token_of_pdm() {
    let Some(world) = World::new() else { return };
    let url = world.evil.index_url("acme", "private");
    let text = format!(
        "[project]\nname = \"acme-app\"\nversion = \"0.1.0\"\nrequires-python = \">=3.9\"\n\
         dependencies = [\"acme-hello\"]\n\n[tool.pdm]\ndistribution = false\n\n\
         [[tool.pdm.source]]\nname = \"{NAME}\"\nurl = \"{url}\"\n"
    );
    world.assert_nothing_is_shown(&text, &["lock", "-v"], &format!("<pdm-pypi-{NAME}>"));
}
