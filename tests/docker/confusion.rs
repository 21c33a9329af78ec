//! Dependency confusion, in builds: a public index that offers a higher version of whatever is private. A real pip asks
//! the merged index of the daemon, and the public file is never installed, whatever befalls the private repository.

use super::engine::{Built, Engine, Release};
use super::harness::Sandbox;
use super::machine::Machine;
use super::scene::{step, told_once};
use super::stand_in::{Fault, StandIn};
use super::untouched::{PUBLIC, on_the_network, public_host};

const SCRIPT: (&str, &[u8]) = ("confusion.py", include_bytes!("steps/confusion.py"));

/// A machine whose merged index has this private repository in front of a public one.
struct Setting {
    machine: Machine,
    public: StandIn,
}

impl Setting {
    fn new(repository: &str, private: &[&str], everybodys: &[&str]) -> Option<Self> {
        let (machine, public) = (Machine::new()?, public_host());
        machine.knows(PUBLIC, &public);
        machine.configure(&format!(
            "[index]\nrepositories = [\"europe/acme/{repository}\"]\n\
             public = \"https://{PUBLIC}:{}/pub/lic/simple/\"\n",
            public.port()
        ));
        for name in private.iter().chain(everybodys) {
            public.add_package("pub", "lic", name, "99.0", &[]);
        }
        for name in private.iter().filter(|name| **name != "acme-hello") {
            machine.scene.sandbox.google.add_package("acme", repository, name, "1.0", &[]);
        }
        Some(Self { machine, public })
    }

    /// A build in which pip is asked for each of these, with all that could lead it elsewhere in its environment.
    fn build(&self, engine: &Engine, repository: &str, wanted: &[&str]) -> Built {
        engine.valetkey();
        let flags = on_the_network(self.machine.flags(&[&format!("europe/acme/{repository}")]));
        let public = format!("https://{PUBLIC}:{}/pub/lic/simple/", self.public.port());
        let pip = format!("valetkey exec --index -- python3 /confusion.py {}", wanted.join(" "));
        let text = format!(
            "FROM {}\nCOPY confusion.py public.pem /\nENV SSL_CERT_FILE=/public.pem REQUESTS_CA_BUNDLE=/public.pem\n\
             ENV PIP_EXTRA_INDEX_URL={public} PIP_FIND_LINKS={public}acme-hello/\n{}",
            engine.base(),
            step(&pip)
        );
        let authority = self.public.ca_pem();
        let context = [SCRIPT, ("public.pem", authority.as_bytes())];
        self.machine.scene.build(engine, &text, &context, &flags)
    }

    /// Of which packages the public index was asked for pages or files.
    fn asked(&self) -> Vec<String> {
        let requests = self.public.registry_requests();
        let below = |path: &str| {
            path.strip_prefix("/pub/lic/").map(|path| path.trim_start_matches("simple/").to_owned())
        };
        requests.iter().filter_map(|request| below(&request.path)).collect()
    }
}

#[test]
fn a_public_file_of_a_private_name_is_never_installed_in_a_build() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let faulty = ["acme-401", "acme-403", "acme-429", "acme-500", "acme-cut", "acme-silent", "acme-moved"];
    let private: Vec<&str> = ["acme-hello"].into_iter().chain(faulty).collect();
    let Some(setting) = Setting::new("private", &private, &["everybodys"]) else { return };
    // A stranger's other spellings of the same name.
    for squat in ["Acme_Hello-99.1-py3-none-any.whl", "ACME.hello-99.2-py3-none-any.whl"] {
        let file = setting.public.file("pub", "lic", "acme-hello", "acme_hello-99.0-py3-none-any.whl");
        setting.public.add_file("pub", "lic", "acme-hello", squat, file.unwrap());
    }
    let moved = format!("https://{PUBLIC}:{}/pub/lic/simple/acme-moved/", setting.public.port());
    for (name, fault) in faulty.iter().zip([
        Fault::status(401),
        Fault::status(403),
        Fault::status(429),
        Fault::status(500),
        Fault::CloseAtOnce,
        Fault::Hang,
        Fault::Redirect { code: 302, location: moved },
    ]) {
        setting
            .machine
            .scene
            .sandbox
            .google
            .registry_fault_always(&format!("/acme/private/simple/{name}/"), fault);
    }
    let _daemon = setting.machine.serve();
    let spellings = ["acme-hello", "Acme_Hello", "ACME.hello", "acme--hello"];
    let wanted: Vec<&str> = spellings.into_iter().chain(faulty).chain(["everybodys"]).collect();
    let built = setting.build(engine, "private", &wanted);
    for name in spellings {
        assert_eq!(told_once(&built, name), "0 acme_hello-1.0.0.dist-info", "{}", built.log);
    }
    for name in faulty {
        assert_eq!(told_once(&built, name).trim(), "1", "{name}: {}", built.log);
    }
    // It would have been installed: what nobody owns is, over the same index.
    assert_eq!(told_once(&built, "everybodys"), "0 everybodys-99.0.dist-info", "{}", built.log);
    let asked = setting.asked();
    assert!(!asked.is_empty() && asked.iter().all(|name| name.starts_with("everybodys")), "{asked:?}");
}

/// Nobody has seen it: its 404, as the 403 of the registry for one that is gone, leads nowhere.
#[test]
fn a_repository_that_is_gone_gives_no_name_to_the_public_index_in_a_build() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let Some(setting) = Setting::new("gone", &["acme-hello"], &[]) else { return };
    let google = &setting.machine.scene.sandbox.google;
    google.registry_fault("/acme/gone/simple/acme-hello/", Fault::status(404));
    let _daemon = setting.machine.serve();
    let built = setting.build(engine, "gone", &["acme-hello", "Acme_Hello"]);
    for name in ["acme-hello", "Acme_Hello"] {
        assert_eq!(told_once(&built, name).trim(), "1", "{name}: {}", built.log);
    }
    let requests = google.registry_requests();
    let pages = requests.iter().filter(|request| request.path.starts_with("/acme/gone/"));
    assert_eq!(pages.map(|request| request.status).collect::<Vec<_>>(), [404, 403]);
    assert!(setting.asked().is_empty(), "{:?}", setting.asked());
    Sandbox::wait_until("the daemon says why", || {
        let log = std::fs::read_to_string(setting.machine.scene.sandbox.path("serve.log"));
        log.unwrap_or_default().contains("so nobody else is asked for")
    });
}
