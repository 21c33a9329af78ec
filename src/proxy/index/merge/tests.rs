//! A public index that offers everything, against every way in which a private repository can fail to answer.

use std::future::pending;
use std::sync::Arc;

use proptest::prelude::*;
use tokio::runtime::Builder;

use super::*;

const PAGE: &str = "application/vnd.pypi.simple.v1+json";

/// What a repository does with every question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Status(u16),
    /// The status, from an address of another repository or another origin.
    From(&'static str, u16),
    /// 200, and something that is no page.
    NoPage,
    Fails(Kind),
    Hangs,
}

/// What the registry's API says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Exists,
    Gone,
    /// There is none.
    Unknown,
    Fails,
    Hangs,
}

/// Repositories `first`, `second`, … in one project, and a public index that has a page of every name.
struct World {
    says: Vec<Says>,
    api: Vec<Api>,
    asked: Mutex<Vec<String>>,
}

impl World {
    fn new(says: &[Says], api: &[Api]) -> Self {
        Self { says: says.to_vec(), api: api.to_vec(), asked: Mutex::default() }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    fn repositories(&self) -> Vec<Repository> {
        (0..self.says.len()).map(repository).collect()
    }

    fn place(&self, repository: &Repository) -> usize {
        self.repositories().iter().position(|it| it == repository).expect("a repository of this world")
    }
}

impl Fetch for World {
    type Body = String;

    async fn page(&self, repository: &Repository, page: &Url, _: &str) -> Result<Answer<String>, Failure> {
        self.note(page.path().to_owned());
        let answer = |status, url: &Url, content_type: &str| {
            let content_type = Some(content_type.to_owned());
            Ok(Answer { status, url: url.clone(), content_type, body: "private".to_owned() })
        };
        match self.says[self.place(repository)] {
            Says::Status(status) => answer(status, page, PAGE),
            Says::From(url, status) => answer(status, &Url::parse(url).unwrap(), PAGE),
            Says::NoPage => answer(200, page, "text/plain"),
            Says::Fails(kind) => Err(Failure::new(kind, "it failed")),
            Says::Hangs => pending().await,
        }
    }

    async fn public_page(&self, page: &Url, _: &str) -> Result<Answer<String>, Failure> {
        self.note(page.to_string());
        let content_type = Some(PAGE.to_owned());
        Ok(Answer { status: 200, url: page.clone(), content_type, body: "public".to_owned() })
    }

    async fn confirms(&self, repository: &Repository) -> Result<Option<bool>, Failure> {
        self.note(format!("api {}", self.place(repository)));
        match self.api[self.place(repository)] {
            Api::Exists => Ok(Some(true)),
            Api::Gone => Ok(Some(false)),
            Api::Unknown => Ok(None),
            Api::Fails => Err(Failure::new(Kind::Unreachable, "no API")),
            Api::Hangs => pending().await,
        }
    }
}

fn repository(place: usize) -> Repository {
    let name = ["first", "second", "third", "fourth"][place];
    Repository::new("europe-python.pkg.dev", "acme", name).unwrap()
}

fn merged(world: &World, private: &[&str]) -> Merged {
    Merged {
        repositories: world.repositories(),
        private: private.iter().map(|pattern| pattern.parse().unwrap()).collect(),
        public: Some(Url::parse("https://public.example/simple/").unwrap()),
    }
}

/// The body that a client gets, with time passing as fast as it can.
fn find(merged: &Merged, world: &World, known: &Known, name: &str) -> Result<String, MergeFault> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let accept = Accept::parse(Some("application/vnd.pypi.simple.v1+json, text/html;q=0.1")).unwrap();
    let name = name.parse().unwrap();
    let query = Query { name: &name, accept: &accept, mount: Mount::root() };
    let admits: Admits = Arc::new(|_| false);
    runtime.block_on(merged.find(world, known, &admits, query)).map(|found| found.body)
}

fn known(places: &[usize]) -> Known {
    let known = Known::default();
    for place in places {
        known.remember(&repository(*place));
    }
    known
}

#[test]
fn the_public_page_is_never_given_where_the_private_one_is_in_doubt() {
    for (says, kind) in [
        (Says::Status(401), Kind::Upstream),
        (Says::Status(403), Kind::Upstream),
        (Says::Status(429), Kind::Upstream),
        (Says::Status(500), Kind::Upstream),
        (Says::Status(503), Kind::Upstream),
        (Says::Status(204), Kind::Upstream),
        (Says::Status(304), Kind::Upstream),
        (Says::Status(302), Kind::Upstream),
        (Says::Status(410), Kind::Upstream),
        (Says::NoPage, Kind::Upstream),
        (Says::From("https://europe-python.pkg.dev/acme/other/simple/hello/", 404), Kind::Upstream),
        (Says::From("https://europe-python.pkg.dev/login", 404), Kind::Upstream),
        (Says::From("https://evil.example/acme/first/simple/hello/", 404), Kind::Upstream),
        (Says::From("https://evil.example/acme/first/simple/hello/", 200), Kind::Upstream),
        (Says::Fails(Kind::Unreachable), Kind::Unreachable),
        (Says::Fails(Kind::NeedsLogin), Kind::NeedsLogin),
        (Says::Fails(Kind::NotFound), Kind::Upstream),
        (Says::Fails(Kind::NotOurs), Kind::Upstream),
        (Says::Hangs, Kind::Deadline),
    ] {
        // Known or not, it makes no difference; nor is the repository behind it asked.
        for known in [known(&[]), known(&[0, 1])] {
            let world = World::new(&[says, Says::Status(200)], &[Api::Exists, Api::Exists]);
            let fault = find(&merged(&world, &[]), &world, &known, "hello").expect_err("no page");
            assert_eq!(fault.kind(), kind, "{says:?}: {fault}");
            assert_eq!(world.asked(), ["/acme/first/simple/hello/"], "{says:?}");
        }
    }
}

#[test]
fn a_404_of_a_repository_that_may_be_gone_ends_the_search() {
    for (api, kind) in [
        (Api::Gone, Kind::Upstream),
        (Api::Unknown, Kind::Upstream),
        (Api::Fails, Kind::Unreachable),
        (Api::Hangs, Kind::Deadline),
    ] {
        let world = World::new(&[Says::Status(404)], &[api]);
        let fault = find(&merged(&world, &[]), &world, &known(&[]), "hello").expect_err("no page");
        assert_eq!(fault.kind(), kind, "{api:?}");
        assert_eq!(world.asked(), ["/acme/first/simple/hello/", "api 0"]);
    }
}

#[test]
fn a_404_of_a_repository_that_exists_lets_the_name_go_on() {
    let world = World::new(&[Says::Status(404), Says::Status(404)], &[Api::Exists, Api::Unknown]);
    // The second has answered before, so its API is not asked; the first one's is asked once.
    let known = known(&[1]);
    for _ in 0..2 {
        assert_eq!(find(&merged(&world, &[]), &world, &known, "hello").unwrap(), "public");
    }
    let pages =
        ["/acme/first/simple/hello/", "/acme/second/simple/hello/", "https://public.example/simple/hello/"];
    let once = [pages[0], "api 0", pages[1], pages[2]];
    assert_eq!(world.asked(), [&once[..], &pages[..]].concat());
}

#[test]
fn the_first_repository_that_has_a_name_serves_it_alone() {
    let world = World::new(&[Says::Status(404), Says::Status(200), Says::Status(200)], &[Api::Exists; 3]);
    let known = known(&[]);
    assert_eq!(find(&merged(&world, &[]), &world, &known, "hello").unwrap(), "private");
    assert_eq!(world.asked(), ["/acme/first/simple/hello/", "api 0", "/acme/second/simple/hello/"]);
    assert!(known.evidence(&repository(1)).is_some() && known.evidence(&repository(2)).is_none());
}

#[test]
fn a_repository_that_answered_with_no_page_is_not_known() {
    let world = World::new(&[Says::NoPage], &[Api::Unknown]);
    let known = known(&[]);
    assert!(find(&merged(&world, &[]), &world, &known, "hello").is_err());
    assert!(known.evidence(&repository(0)).is_none());
}

/// As if that much time had passed.
fn age(known: &Known, by: Duration) {
    for evidence in known.0.lock().unwrap().values_mut() {
        evidence.until -= by;
    }
}

#[test]
fn what_was_known_is_asked_for_again_and_an_api_that_fails_is_enough_only_for_what_was_seen() {
    let (on, off) = (Some("public"), None);
    for (word, api, expected, asked_later) in [
        (Word::Seen, Api::Exists, on, 2),
        (Word::Seen, Api::Gone, off, 2),
        (Word::Seen, Api::Unknown, on, 1),
        (Word::Seen, Api::Fails, on, 1),
        (Word::Seen, Api::Hangs, on, 1),
        (Word::Confirmed, Api::Exists, on, 2),
        (Word::Confirmed, Api::Gone, off, 2),
        (Word::Confirmed, Api::Fails, off, 3),
        (Word::Confirmed, Api::Hangs, off, 3),
        (Word::Gone, Api::Exists, on, 2),
        (Word::Gone, Api::Gone, off, 2),
        (Word::Gone, Api::Fails, off, 3),
    ] {
        let world = World::new(&[Says::Status(404)], &[api]);
        let (merged, known) = (merged(&world, &[]), Known::default());
        let ask = || find(&merged, &world, &known, "hello").ok();
        let asked = || world.asked().iter().filter(|asked| asked.starts_with("api")).count();
        known.note(&repository(0), word, BELIEVED);
        assert_eq!(
            ask().as_deref(),
            if word == Word::Gone { off } else { on },
            "{word:?}, while it is fresh"
        );
        assert_eq!(asked(), 0);
        age(&known, BELIEVED * 2);
        for _ in 0..2 {
            assert_eq!(ask().as_deref(), expected, "{word:?} {api:?}");
        }
        age(&known, BELIEVED * 2);
        assert_eq!(ask().as_deref(), expected, "{word:?} {api:?}");
        assert_eq!(asked(), asked_later, "{word:?} {api:?}");
    }
}

#[test]
fn a_page_keeps_what_the_api_has_confirmed() {
    let known = Known::default();
    known.note(&repository(0), Word::Confirmed, BELIEVED);
    known.remember(&repository(0));
    assert_eq!(known.evidence(&repository(0)).unwrap().word, Word::Confirmed);
    known.note(&repository(1), Word::Gone, BELIEVED);
    known.remember(&repository(1));
    assert_eq!(known.evidence(&repository(1)).unwrap().word, Word::Seen);
}

#[test]
fn private_names_never_reach_the_public_index_in_any_spelling() {
    let world = World::new(&[Says::Status(404)], &[Api::Exists]);
    let merged = merged(&world, &["acme-*", "Secret"]);
    for name in ["acme-lib", "Acme_Lib", "ACME.LIB", "acme--lib", "secret", "SECRET"] {
        let fault = find(&merged, &world, &known(&[0]), name).expect_err("no page");
        assert!(matches!(fault, MergeFault::NotFound { covered: true, .. }), "{name}");
    }
    assert!(world.asked().iter().all(|asked| !asked.contains("public.example")));
    // A name that only begins alike is another name, and public: README says so.
    assert_eq!(find(&merged, &world, &known(&[0]), "acmelib").unwrap(), "public");
}

#[test]
fn every_spelling_asks_for_the_same_page() {
    for name in ["Acme_Lib", "acme.lib", "ACME--LIB"] {
        let world = World::new(&[Says::Status(200)], &[Api::Unknown]);
        assert_eq!(find(&merged(&world, &[]), &world, &known(&[]), name).unwrap(), "private");
        assert_eq!(world.asked(), ["/acme/first/simple/acme-lib/"]);
    }
}

#[test]
fn without_a_public_index_a_name_that_nobody_has_is_not_found() {
    let world = World::new(&[Says::Status(404)], &[Api::Exists]);
    let merged = Merged { public: None, ..merged(&world, &[]) };
    let fault = find(&merged, &world, &known(&[]), "hello").expect_err("no page");
    assert!(matches!(fault, MergeFault::NotFound { covered: false, .. }));
    assert_eq!(fault.kind(), Kind::NotFound);
}

#[test]
fn a_fault_says_which_place_and_what_to_do() {
    let world = World::new(&[Says::Status(403)], &[Api::Exists]);
    let fault = find(&merged(&world, &[]), &world, &known(&[]), "hello").expect_err("no page");
    assert_eq!(
        Failure::from(fault).one_line(),
        "https://europe-python.pkg.dev/acme/first answered with the status 403 for the project `hello`, so nobody \
         else is asked for it; check that the repository's name is right and that you may read it"
    );
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        4 => Just(Says::Status(404)),
        1 => Just(Says::Status(200)),
        1 => (100_u16..600).prop_map(Says::Status),
        1 => Just(Says::From("https://europe-python.pkg.dev/acme/other/simple/hello/", 404)),
        1 => Just(Says::From("https://evil.example/simple/hello/", 200)),
        1 => Just(Says::NoPage),
        1 => Just(Says::Fails(Kind::NotFound)),
        1 => Just(Says::Hangs),
    ]
}

fn api() -> impl Strategy<Value = Api> {
    prop_oneof![3 => Just(Api::Exists), 1 => Just(Api::Gone), 1 => Just(Api::Unknown), 1 => Just(Api::Fails), 1 => Just(Api::Hangs)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The public index is asked exactly when every repository is known to exist and has answered 404 by itself, and
    /// the name is not private. Nobody is asked behind the first one that is in doubt.
    #[test]
    fn the_public_index_is_asked_only_for_what_no_repository_has(
        places in proptest::collection::vec((says(), api(), any::<bool>()), 0..4),
        private in any::<bool>(),
    ) {
        let (says, api): (Vec<_>, Vec<_>) = places.iter().map(|(says, api, _)| (*says, *api)).unzip();
        let seen: Vec<usize> = (0..places.len()).filter(|place| places[*place].2).collect();
        let world = World::new(&says, &api);
        let patterns: &[&str] = if private { &["hel*"] } else { &[] };
        let result = find(&merged(&world, patterns), &world, &known(&seen), "hello");

        let passes = |(says, api, seen): &(Says, Api, bool)| {
            *says == Says::Status(404) && (*seen || *api == Api::Exists)
        };
        let first_doubt = places.iter().position(|place| !passes(place));
        let public = world.asked().iter().any(|asked| asked.contains("public.example"));
        prop_assert_eq!(public, first_doubt.is_none() && !private, "{:?}", world.asked());
        let pages = world.asked().iter().filter(|asked| asked.starts_with("/acme/")).count();
        prop_assert_eq!(pages, first_doubt.map_or(places.len(), |place| place + 1));
        let expected = match first_doubt {
            None if private => None,
            None => Some("public"),
            Some(place) => (says[place] == Says::Status(200)).then_some("private"),
        };
        let body = result.ok();
        prop_assert_eq!(body.as_deref(), expected);
    }
}
