//! The Python index of the daemon: pages whose links come back, and a merged index that no stranger gets into.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::harness::{Daemon, Sandbox};
use super::passing::{Answer, exchange, lines, setting};
use super::stand_in::{Authorization, Fault, Options, StandIn};

pub(super) const JSON: &str = "application/vnd.pypi.simple.v1+json";
pub(super) const PAGE: &str = "/acme/private/simple/acme-hello/";

/// The path of the daemon's index for a path of the stand-in's registry.
pub(super) fn index(sandbox: &Sandbox, path: &str) -> String {
    format!("/index/localhost:{}{path}", sandbox.google.port())
}

pub(super) fn call(sandbox: &Sandbox, method: &str, path: &str, accept: &str) -> Answer {
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: {accept}\r\n\r\n");
    Answer::read(&exchange(sandbox, head.as_bytes()), method == "HEAD")
}

pub(super) fn get(sandbox: &Sandbox, path: &str) -> Answer {
    call(sandbox, "GET", path, "text/html")
}

/// The path that a relative link on the page at `path` leads to, without its hash.
pub(super) fn followed(path: &str, link: &str) -> String {
    let base = url::Url::parse(&format!("http://x{path}")).unwrap();
    base.join(link).unwrap().path().to_owned()
}

pub(super) fn links(page: &Answer) -> Vec<String> {
    page.text().split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

/// A page in the registry's place.
fn instead(content_type: &str, body: &str) -> Fault {
    Fault::Status {
        code: 200,
        retry_after: None,
        body: body.to_owned(),
        content_type: content_type.to_owned(),
    }
}

#[test]
fn the_links_of_a_page_lead_back_and_work_in_both_forms() {
    let sandbox = Sandbox::new();
    sandbox.google.serve_json();
    let daemon = setting(&sandbox);
    let path = index(&sandbox, PAGE);
    let page = get(&sandbox, &path);
    assert_eq!((page.status, page.whole), (200, true), "{page:?}");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let found = links(&page);
    assert!(found[0].contains("#sha256="), "{found:?}");
    let from_html = followed(&path, &found[0]);
    let own = format!("/registry/localhost:{}/acme/private/acme-hello/", sandbox.google.port());
    assert!(from_html.starts_with(&own), "{found:?}");
    let file = get(&sandbox, &from_html);
    let name = from_html.rsplit('/').next().unwrap();
    assert_eq!(Some(file.body), sandbox.google.file("acme", "private", "acme-hello", name));

    let page = call(&sandbox, "GET", &path, &format!("{JSON}, text/html;q=0.1"));
    assert_eq!((page.status, page.header("content-type")), (200, Some(JSON)), "{page:?}");
    let content: Value = serde_json::from_slice(&page.body).unwrap();
    assert_eq!(followed(&path, content["files"][0]["url"].as_str().unwrap()), from_html, "{content}");
    assert!(content["files"][0]["hashes"]["sha256"].is_string() && content["files"][0]["size"].is_u64());

    // The file itself, asked for below the index.
    let file = get(&sandbox, &from_html.replace("/registry/", "/index/"));
    assert_eq!(file.status, 200, "{file:?}");
    let seen = sandbox.google.registry_requests();
    assert!(seen.iter().all(|request| request.authorization == Authorization::Bearer), "{seen:?}");
    assert_eq!(seen[0].header("accept-encoding"), Some("identity"));
    let told = lines(&daemon, 4);
    assert_eq!((&told[0]["verdict"], &told[0]["repository"]), (&"passed".into(), &"acme/private".into()));
}

#[test]
fn an_upload_below_the_index_is_the_registrys_and_needs_the_grant_to_write() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("run/extra.sock");
    sandbox.configure(&listener(&socket, &format!("\"{}\"", sandbox.index())));
    let _daemon = setting(&sandbox);
    let request = |path: &str| {
        let path = index(&sandbox, path);
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx")
    };
    for path in ["/acme/private/", PAGE] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request(path).as_bytes()).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        assert_eq!(Answer::read(&reply, false).status, 403, "{path}");
    }
    assert!(sandbox.google.registry_requests().is_empty());
    // No form, says the registry.
    let reply = exchange(&sandbox, request("/acme/private/").as_bytes());
    assert_eq!(Answer::read(&reply, false).status, 400);
    assert_eq!(sandbox.google.registry_requests().pop().unwrap().method, "POST");
}

/// pipenv doubles the slash behind an index, and pip escapes the colon in what the page's links lead to.
#[test]
fn a_slash_too_many_and_an_escaped_colon_lead_to_the_same_place() {
    let sandbox = Sandbox::new();
    configure(&sandbox, None, "", "");
    let _daemon = setting(&sandbox);
    let one = index(&sandbox, "/acme/private/simple//acme-hello/");
    for path in [one.as_str(), &one.replace("localhost:", "localhost%3A"), "/simple//acme-hello/"] {
        let page = get(&sandbox, path);
        assert_eq!((page.status, page.whole), (200, true), "{path}: {page:?}");
        for colon in [":", "%3A", "%3a"] {
            let file = followed(path, &links(&page)[0]).replace("localhost:", &format!("localhost{colon}"));
            assert!(file.contains(&format!("localhost{colon}")), "{file}");
            assert_eq!(get(&sandbox, &file).status, 200, "{path}: {file}");
        }
    }
    // Where nothing is put right there is nothing at such a path.
    assert_eq!(get(&sandbox, &one.replace("/index/", "/registry/")).status, 404);
    assert_eq!(get(&sandbox, "/simple///acme-hello/").status, 404);
    assert_eq!(get(&sandbox, "/simple//").status, 404);
}

#[test]
fn statuses_pass_and_conditions_do_not() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let path = index(&sandbox, PAGE);
    sandbox.google.registry_fault(
        PAGE,
        Fault::Headers(vec![
            ("etag", "\"a\""),
            ("last-modified", "Sat, 01 Jan 2000 00:00:00 GMT"),
            ("x-goog-hash", "md5=AAAA"),
            ("x-kept", "1"),
        ]),
    );
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nif-none-match: \"a\"\r\naccept-encoding: gzip\r\n\r\n"
    );
    let page = Answer::read(&exchange(&sandbox, request.as_bytes()), false);
    assert_eq!((page.status, page.header("x-kept")), (200, Some("1")), "{page:?}");
    for name in ["etag", "last-modified", "x-goog-hash"] {
        assert_eq!(page.header(name), None);
    }
    let seen = sandbox.google.registry_requests().pop().unwrap();
    assert_eq!((seen.header("if-none-match"), seen.header("accept-encoding")), (None, Some("identity")));

    let head = call(&sandbox, "HEAD", &path, "text/html");
    assert_eq!((head.status, head.body.len()), (200, 0), "{head:?}");
    assert_eq!(get(&sandbox, &index(&sandbox, "/acme/private/simple/none-such/")).status, 404);
    assert_eq!(get(&sandbox, &index(&sandbox, "/acme/private/simple/")).status, 404);
    for code in [403, 404, 429, 500, 503] {
        sandbox.google.registry_fault(PAGE, Fault::retry_after(code, 7));
        let answer = get(&sandbox, &path);
        assert_eq!((answer.status, answer.header("retry-after")), (code, Some("7")), "{answer:?}");
    }
    assert_eq!(call(&sandbox, "GET", &path, "image/png").status, 406);
    assert_eq!(get(&sandbox, "/index/localhost/").status, 404);
    assert_eq!(get(&sandbox, "/simple/").status, 404);
    let unconfigured = get(&sandbox, "/simple/acme-hello/");
    assert_eq!(unconfigured.status, 404);
    assert!(unconfigured.problem()["hint"].as_str().unwrap().contains("[index]"), "{unconfigured:?}");
}

#[test]
fn a_page_comes_while_the_registry_still_writes_it() {
    let sandbox = Sandbox::new();
    for version in 2..40 {
        sandbox.google.add_package("acme", "private", "acme-hello", &format!("0.{version}"), &[]);
    }
    let _daemon = setting(&sandbox);
    sandbox.google.registry_fault(PAGE, Fault::HalfThenSilence);
    let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let path = index(&sandbox, PAGE);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    let mut come = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&come).contains("/registry/localhost:") {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&come));
        come.extend_from_slice(&piece[..count]);
    }
}

#[test]
fn a_page_that_breaks_is_never_a_whole_one() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    let path = index(&sandbox, PAGE);
    let faults = [
        Fault::HalfBody,
        instead(JSON, r#"{"meta": {}, "files": [{"filename": "a", "url": "a"}, {"filena"#),
        instead(JSON, "[]"),
        // Two ways to read it.
        instead("text/html", "<select><xmp><script>x</script></select>"),
    ];
    let count = faults.len();
    for fault in faults {
        let told = format!("{fault:?}");
        sandbox.google.registry_fault(PAGE, fault);
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: {JSON}, text/html\r\n\r\n"
        );
        let reply = exchange(&sandbox, request.as_bytes());
        // A fault in the first piece may end it before the head.
        if !reply.is_empty() {
            let answer = Answer::read(&reply, false);
            assert!(!answer.whole, "{told}: {answer:?}");
        }
    }
    assert!(lines(&daemon, count).iter().all(|line| line["verdict"] == "broken off"), "{}", daemon.log());
    for (fault, status) in [
        (Fault::Headers(vec![("content-encoding", "gzip")]), 502),
        (instead("application/json", "{}"), 502),
        (instead("text/plain", "hello"), 502),
    ] {
        sandbox.google.registry_fault(PAGE, fault);
        assert_eq!(get(&sandbox, &path).status, status);
    }
}

/// A listener for `repositories` on a further socket.
fn listener(path: &Path, repositories: &str) -> String {
    format!("[[listener]]\nunix = \"{}\"\nrepositories = [{repositories}]\n", path.display())
}

fn at_listener(path: &Path, target: &str) -> Answer {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    Answer::read(&reply, false)
}

#[test]
fn what_is_not_granted_is_refused_with_the_line_to_add_and_nobody_is_asked() {
    let sandbox = Sandbox::new();
    let public = public_index(&sandbox);
    let socket = sandbox.path("run/extra.sock");
    let granted = format!("\"https://localhost:{}/acme/other\"", sandbox.google.port());
    configure(&sandbox, Some(&public), "", &listener(&socket, &granted));
    let _daemon = setting(&sandbox);
    for target in [index(&sandbox, PAGE), "/simple/acme-hello/".to_owned()] {
        let answer = at_listener(&socket, &target);
        assert_eq!(answer.status, 403, "{target}: {answer:?}");
        let wanted = format!("\"https://localhost:{}/acme/private\"", sandbox.google.port());
        let line = format!("repositories = [{granted}, {wanted}]");
        assert!(answer.problem()["hint"].as_str().unwrap().contains(&line), "{answer:?}");
    }
    assert!(sandbox.google.registry_requests().is_empty() && sandbox.google.token_requests().is_empty());
    assert!(public.registry_requests().is_empty());
}

/// A public index, with a higher version of what is private, and something of its own.
fn public_index(sandbox: &Sandbox) -> StandIn {
    let public = StandIn::start(Options::default());
    public.open_to_all();
    public.add_package("pub", "lic", "acme-hello", "99.0", &[]);
    public.add_package("pub", "lic", "acme-secret", "99.0", &[]);
    public.add_package("pub", "lic", "everybodys", "1.0", &[]);
    std::fs::write(sandbox.path("ca.pem"), sandbox.google.ca_pem() + &public.ca_pem()).unwrap();
    public
}

/// `[index]` of the private repository and the public one behind it.
fn configure(sandbox: &Sandbox, public: Option<&StandIn>, private: &str, more: &str) {
    let public = public
        .map_or_else(String::new, |public| format!("public = \"{}\"\n", public.index_url("pub", "lic")));
    let repository = sandbox.index();
    sandbox.configure(&format!(
        "[index]\nrepositories = [\"{repository}\"]\nprivate = [{private}]\n{public}{more}"
    ));
}

#[track_caller]
fn assert_private(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.text().contains("99.0") && links(answer)[0].contains("registry/"), "{answer:?}");
}

#[test]
fn what_is_private_is_served_alone_however_it_is_spelled() {
    let sandbox = Sandbox::new();
    let public = public_index(&sandbox);
    configure(&sandbox, Some(&public), "", "");
    let _daemon = setting(&sandbox);
    for spelling in ["acme-hello/", "Acme_Hello/", "ACME.HELLO/", "acme--hello", "acme-hello/?x"] {
        let path = format!("/simple/{spelling}");
        let page = get(&sandbox, &path);
        assert_private(&page);
        let file = get(&sandbox, &followed(&path, &links(&page)[0]));
        assert_eq!(file.status, 200, "{file:?}");
    }
    assert!(public.registry_requests().is_empty());
    assert_eq!(get(&sandbox, "/simple/").status, 404);
    assert_eq!(call(&sandbox, "GET", "/simple/acme-hello/", "image/png").status, 406);
    assert_eq!(call(&sandbox, "POST", "/simple/acme-hello/", "text/html").status, 404);
}

#[test]
fn a_name_goes_on_only_over_a_404_of_a_repository_that_was_seen() {
    let sandbox = Sandbox::new();
    let public = public_index(&sandbox);
    configure(&sandbox, Some(&public), "\"Acme_*\"", "");
    let daemon = setting(&sandbox);
    let unproven = get(&sandbox, "/simple/everybodys/");
    assert_eq!(unproven.status, 502, "{unproven:?}");
    assert!(public.registry_requests().is_empty());

    assert_eq!(get(&sandbox, &index(&sandbox, PAGE)).status, 200);
    let page = get(&sandbox, "/simple/everybodys/");
    assert_eq!((page.status, page.whole), (200, true), "{page:?}");
    assert!(
        links(&page)[0].starts_with(&format!("https://localhost:{}/pub/lic/", public.port())),
        "{page:?}"
    );
    let seen = public.registry_requests();
    assert_eq!((seen.len(), &seen[0].authorization), (1, &Authorization::None), "{seen:?}");

    for spelling in ["acme-secret", "Acme_Secret", "ACME.secret"] {
        let covered = get(&sandbox, &format!("/simple/{spelling}/"));
        assert_eq!(covered.status, 404, "{covered:?}");
        assert!(covered.problem()["hint"].as_str().unwrap().contains("private"), "{covered:?}");
    }
    assert_eq!(public.registry_requests().len(), 1);
    assert!(lines(&daemon, 6).iter().any(|line| line["registry"].is_null() && line["verdict"] == "passed"));
}

#[test]
fn whatever_befalls_the_private_repository_the_public_page_is_never_given() {
    let sandbox = Sandbox::new();
    let public = public_index(&sandbox);
    configure(&sandbox, Some(&public), "", "");
    let _daemon = setting(&sandbox);
    assert_private(&get(&sandbox, "/simple/acme-hello/"));
    let moved = format!("https://localhost:{}/pub/lic/simple/acme-hello/", public.port());
    for fault in [
        Fault::status(401),
        Fault::status(403),
        Fault::status(410),
        Fault::status(429),
        Fault::status(500),
        Fault::status(503),
        Fault::CloseAtOnce,
        Fault::Hang,
        Fault::Redirect { code: 302, location: moved },
        Fault::Redirect { code: 302, location: "/acme/elsewhere/simple/acme-hello/".to_owned() },
        instead("application/json", "{}"),
        instead("text/plain", ""),
    ] {
        let told = format!("{fault:?}");
        sandbox.google.clear_registry_faults();
        sandbox.google.registry_fault_always(PAGE, fault);
        let answer = get(&sandbox, "/simple/acme-hello/");
        assert!(answer.status >= 403 && answer.status != 404, "{told}: {answer:?}");
        answer.problem();
    }
    assert!(public.registry_requests().is_empty(), "{:?}", public.registry_requests());
}

#[test]
fn a_404_of_a_repository_that_nobody_has_seen_leads_nowhere() {
    let sandbox = Sandbox::new();
    let public = public_index(&sandbox);
    configure(&sandbox, Some(&public), "", "");
    let _daemon = setting(&sandbox);
    sandbox.google.registry_fault_always("/acme/private/", Fault::status(404));
    let answer = get(&sandbox, "/simple/acme-hello/");
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(
        answer.problem()["detail"].as_str().unwrap().contains("has not been seen to exist"),
        "{answer:?}"
    );
    sandbox.google.clear_registry_faults();
    // As the registry itself tells of one that is gone.
    sandbox.google.remove_repository("acme", "private");
    assert_eq!(get(&sandbox, "/simple/acme-hello/").status, 502);
    assert!(public.registry_requests().is_empty());
}

#[test]
fn a_broken_index_in_the_configuration_is_told_and_a_good_one_is_read_again() {
    let sandbox = Sandbox::new();
    let granted = |daemon: &Daemon<'_>| -> bool {
        let answer = get(&sandbox, "/v1/grant");
        let grant: Value =
            serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", daemon.log()));
        grant["index"].as_bool().unwrap()
    };
    let daemon = setting(&sandbox);
    assert!(!granted(&daemon));
    configure(&sandbox, None, "\"acme-*-x\"", "");
    let wrong = sandbox.run(sandbox.valetkey().args(["serve", "--socket", "x"]));
    assert_ne!(wrong.code, Some(0), "{wrong:?}");
    assert_eq!(reload(&sandbox).status, 500);
    assert!(!granted(&daemon));
    configure(&sandbox, None, "\"acme-*\"", "");
    assert_eq!(reload(&sandbox).status, 200);
    assert!(granted(&daemon));
    assert_private(&get(&sandbox, "/simple/acme-hello/"));
}

fn reload(sandbox: &Sandbox) -> Answer {
    let request = b"POST /v1/reload HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    Answer::read(&exchange(sandbox, request), false)
}

#[test]
fn several_repositories_are_one_index_in_their_order_and_no_other() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    for (repository, name) in [("first", "one"), ("first", "both"), ("second", "two"), ("second", "both")] {
        sandbox.google.add_package("acme", repository, name, "1.0", &[]);
    }
    sandbox.google.add_package("acme", "third", "three", "1.0", &[]);
    let _daemon = sandbox.serve();
    let run = |repositories: &[&str], names: &str| {
        let mut command = sandbox.valetkey();
        command.args(["exec", "--index"]);
        for repository in repositories {
            command.arg(format!("https://localhost:{}/acme/{repository}", sandbox.google.port()));
        }
        let script =
            format!("for name in {names}; do curl -sS -w ' %{{http_code}}\\n' $PIP_INDEX_URL$name/; done");
        sandbox.run(command.args(["--", "sh", "-c", &script]).env("PATH", "/usr/bin:/bin"))
    };
    let both = ["first", "second"];
    // The second is known once it has answered with a page.
    let out = run(&both, "one two both three");
    let codes: Vec<_> = out.stdout.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    let codes: Vec<_> =
        codes.into_iter().filter(|word| word.len() == 3 && word.parse::<u16>().is_ok()).collect();
    assert_eq!(codes, ["200", "200", "200", "404"], "{out:?}");
    let count = |text: &str| out.stdout.matches(text).count();
    assert!(count("/acme/first/both/") > 0 && count("/acme/second/two/") > 0, "{out:?}");
    assert_eq!(count("/acme/second/both/"), 0, "{out:?}");
    // One that is not there lets nothing go on to the next.
    let out = run(&["missing", "second"], "two");
    assert!(!out.stdout.contains("200") && !out.stdout.contains("/acme/second/"), "{out:?}");
    // What is not granted is not merged.
    assert!(get(&sandbox, "/merged/evil.test/acme/first/simple/one/").status >= 400);
    for path in
        ["/merged/simple/one/", "/merged/a/b/simple/one/", "/merged/a/b/c/one/", "/merged//b/c/simple/one/"]
    {
        assert_eq!(get(&sandbox, path).status, 404, "{path}");
    }
}
