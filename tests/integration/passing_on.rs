//! Where an answer of a registry leads: redirects that the daemon follows, and addresses that it gives its client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::harness::Sandbox;
use super::passing::{Answer, exchange, setting};
use super::stand_in::{Authorization, Fault, Options, StandIn};

const WHEEL: &str = "/acme/private/acme-hello/acme_hello-1.0.0-py3-none-any.whl";

/// One request at a socket, with no header but those that it has to have.
fn ask(socket: &Path, method: &str, target: &str, body: &str) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    write!(stream, "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{length}\r\n{body}")
        .unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    Answer::read(&reply, method == "HEAD")
}

fn own(sandbox: &Sandbox, path: &str) -> String {
    format!("/registry/localhost:{}{path}", sandbox.google.port())
}

/// A listener for one repository of a host.
fn listener(socket: &Path, repository: &str, access: &str) -> String {
    let socket = socket.display();
    format!("[[listener]]\nunix = \"{socket}\"\nrepositories = [\"{repository}\"]\naccess = \"{access}\"\n")
}

/// A registry of another format beside the stand-in's own, that lets everybody in.
fn beside(sandbox: &Sandbox) -> StandIn {
    let other = StandIn::start(Options::default());
    other.open_to_all();
    std::fs::write(sandbox.path("ca.pem"), sandbox.google.ca_pem() + &other.ca_pem()).unwrap();
    other
}

#[test]
fn a_redirect_to_what_is_not_granted_is_not_followed() {
    let sandbox = Sandbox::new();
    sandbox.google.add_package("acme", "other", "acme-hello", "1.0.0", &[]);
    sandbox.google.add_package("acme", "third", "acme-hello", "1.0.0", &[]);
    let [socket, both] = ["run/one.sock", "run/both.sock"].map(|name| sandbox.path(name));
    let host = format!("https://localhost:{}", sandbox.google.port());
    let one = listener(&socket, &format!("{host}/acme/private"), "read");
    let two = listener(&both, &format!("{host}/acme/private\", \"{host}/acme/other"), "read");
    sandbox.configure(&format!("{one}{two}"));
    let _daemon = setting(&sandbox);
    let sent_to = |socket: &Path, location: &str| {
        let before = sandbox.google.registry_requests().len();
        let fault = Fault::Redirect { code: 302, location: location.to_owned() };
        sandbox.google.registry_fault(WHEEL, fault);
        let answer = ask(socket, "GET", &own(&sandbox, WHEEL), "");
        (answer, sandbox.google.registry_requests().len() - before)
    };
    let elsewhere = WHEEL.replace("private", "other");
    let (answer, asked) = sent_to(&socket, &elsewhere);
    assert_eq!((answer.status, asked), (502, 1), "{answer:?}");
    assert!(answer.problem()["detail"].as_str().unwrap().contains("not granted here"), "{answer:?}");
    assert_eq!(sent_to(&both, &elsewhere).0.status, 200);
    assert_eq!(sent_to(&both, &WHEEL.replace("private", "third")).1, 1);
    for location in [
        "/artifacts-downloads/namespaces/acme/repositories/other/downloads/x",
        "/acme/other/../private/x%2f..%2f..%2fother",
        "/acme/private/x%252f..%252fother",
        "/acme/",
        "/",
        "/token",
    ] {
        for socket in [&socket, &sandbox.socket()] {
            let granted = location.contains("repositories/other") && *socket == sandbox.socket();
            let (answer, asked) = sent_to(socket, location);
            assert_eq!(
                (answer.status, asked),
                if granted { (404, 2) } else { (502, 1) },
                "{location}: {answer:?}"
            );
        }
    }
    // Where it goes on by itself.
    assert_eq!(ask(&socket, "GET", &own(&sandbox, WHEEL), "").status, 200);
}

#[test]
fn the_next_step_of_an_upload_leads_back_through_us() {
    let sandbox = Sandbox::new();
    let docker = beside(&sandbox);
    let host = format!("localhost:{}", docker.port());
    let [socket, reader] = ["run/write.sock", "run/read.sock"].map(|name| sandbox.path(name));
    let granted = format!("https://{host}/acme/private");
    sandbox.configure(&format!(
        "[[registry]]\nhost = \"{host}\"\nformat = \"docker\"\n{}{}",
        listener(&socket, &granted, "write"),
        listener(&reader, &granted, "read")
    ));
    let _daemon = setting(&sandbox);
    let start = format!("/registry/{host}/v2/acme/private/app/blobs/uploads/");
    let session = "/artifacts-uploads/namespaces/acme/repositories/private/uploads/AF2-x_=";
    let begun = |location: &str| {
        docker.registry_fault("/v2/", Fault::Redirect { code: 202, location: location.to_owned() });
        let answer = ask(&socket, "POST", &start, "");
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.header("location").map(str::to_owned)
    };
    let back = format!("/registry/{host}{session}?state=a%2Fb");
    for location in [
        format!("{session}?state=a%2Fb"),
        format!("https://{host}{session}?state=a%2Fb"),
        format!("//{host}{session}?state=a%2Fb"),
        format!("../../../../../../{}?state=a%2Fb", &session[1..]),
    ] {
        assert_eq!(begun(&location).as_deref(), Some(back.as_str()), "{location}");
    }
    docker.registry_fault("/artifacts-uploads/", Fault::Redirect { code: 202, location: session.to_owned() });
    let answer = ask(&socket, "PATCH", &back, "a piece");
    assert_eq!(
        (answer.status, answer.header("location")),
        (202, Some(&*format!("/registry/{host}{session}")))
    );
    docker.registry_fault("/artifacts-uploads/", Fault::status(201));
    assert_eq!(ask(&socket, "PUT", &format!("{back}&digest=sha256:00"), "").status, 201);
    let seen = docker.registry_requests();
    assert!(seen.iter().all(|request| request.authorization == Authorization::Bearer), "{seen:?}");
    assert_eq!(seen.last().unwrap().target, format!("{session}?state=a%2Fb&digest=sha256:00"));

    // Whatever else it says leads nowhere of ours, so that our token does not go there.
    let count = docker.registry_requests().len();
    for location in [
        "https://storage.googleapis.com/upload?ticket=1".to_owned(),
        format!("https://localhost:{}/acme/private/", sandbox.google.port()),
        format!("http://{host}{session}"),
        format!("https://{host}/v2/acme/other/app/blobs/uploads/x"),
        format!("https://{host}/"),
    ] {
        assert_eq!(begun(&location).as_deref(), Some(location.as_str()));
    }
    assert_eq!(
        begun("/v2/acme/other/x/y/z").as_deref(),
        Some(&*format!("https://{host}/v2/acme/other/x/y/z"))
    );
    assert_eq!(docker.registry_requests().len(), count + 6);
    assert_eq!(ask(&reader, "POST", &start, "").status, 403);
    assert_eq!(ask(&reader, "PATCH", &back, "a piece").status, 403);
    assert_eq!(ask(&socket, "PATCH", &back.replace("private", "other"), "a piece").status, 403);
    assert_eq!(docker.registry_requests().len(), count + 6);
}

#[test]
fn a_scoped_package_of_npm_is_read_under_the_name_that_npm_gives_it() {
    let sandbox = Sandbox::new();
    let npm = beside(&sandbox);
    let host = format!("localhost:{}", npm.port());
    let socket = sandbox.path("run/npm.sock");
    let granted = listener(&socket, &format!("https://{host}/acme/npm"), "read");
    sandbox.configure(&format!("[[registry]]\nhost = \"{host}\"\nformat = \"npm\"\n{granted}"));
    let _daemon = setting(&sandbox);
    for slash in ["%2f", "%2F"] {
        let path = format!("/acme/npm/@acme{slash}hello");
        npm.registry_fault(&path, Fault::Body { status: 200, text: "{}".to_owned() });
        assert_eq!(ask(&socket, "GET", &format!("/registry/{host}{path}"), "").status, 200);
        assert_eq!(npm.registry_requests().pop().unwrap().target, path);
    }
    let count = npm.registry_requests().len();
    for (path, status) in [
        ("/acme/other/@acme%2fhello", 403),
        ("/acme/npm/@acme%2f..%2fother", 400),
        ("/acme/npm/@acme%252fhello", 400),
        ("/acme/npm/acme%2fhello", 400),
        ("/acme/@x%2fnpm/hello", 400),
    ] {
        assert_eq!(ask(&socket, "GET", &format!("/registry/{host}{path}"), "").status, status, "{path}");
    }
    assert_eq!(npm.registry_requests().len(), count);
    let python = own(&sandbox, "/acme/private/@acme%2fhello");
    assert_eq!(Answer::read(&exchange(&sandbox, plain_get(&python).as_bytes()), false).status, 400);
}

fn plain_get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[test]
fn the_key_of_a_repository_of_debian_packages_is_read_without_a_token() {
    let sandbox = Sandbox::new();
    let apt = beside(&sandbox);
    let host = format!("localhost:{}", apt.port());
    let [socket, stranger] = ["run/apt.sock", "run/other.sock"].map(|name| sandbox.path(name));
    let one = listener(&socket, &format!("https://{host}/acme/apt"), "write");
    let two = listener(&stranger, &sandbox.index().replace("/simple/", ""), "write");
    sandbox.configure(&format!("[[registry]]\nhost = \"{host}\"\nformat = \"apt\"\n{one}{two}"));
    let _daemon = setting(&sandbox);
    let key = format!("/registry/{host}/doc/repo-signing-key.gpg");
    apt.registry_fault_always("/doc/", Fault::Body { status: 200, text: "a key".to_owned() });
    for socket in [&socket, &sandbox.socket()] {
        let answer = ask(socket, "GET", &key, "");
        assert_eq!((answer.status, answer.text().as_str()), (200, "a key"));
    }
    assert_eq!(ask(&socket, "HEAD", &key, "").status, 200);
    assert!(apt.registry_requests().iter().all(|request| request.authorization == Authorization::None));
    assert!(sandbox.google.token_requests().is_empty(), "no token was even asked for");
    let count = apt.registry_requests().len();
    assert_eq!(ask(&stranger, "GET", &key, "").status, 403);
    assert_eq!(ask(&socket, "PUT", &key, "x").status, 403);
    assert_eq!(ask(&socket, "DELETE", &key, "").status, 403);
    assert_eq!(ask(&socket, "GET", &key.replace("repo-signing", "other"), "").status, 403);
    assert_eq!(apt.registry_requests().len(), count);
}
