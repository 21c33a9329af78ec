//! Which certificates are trusted, and how long it is remembered that they could not be read. The certificates are made by
//! the real openssl, and curl and Python are asked about the same servers.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::exec::real_path;
use super::harness::{CONFIGURATION, Daemon, Run, Sandbox};
use super::passing::{Answer, exchange};
use super::{assert_given, assert_refused};

/// A sandbox with a key and a configuration that names no certificates.
fn without_extra_ca() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.service_account();
    let text = std::fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap();
    sandbox.write(CONFIGURATION, text.split_once('\n').unwrap().1);
    sandbox
}

fn ask(sandbox: &Sandbox, variables: &[(&str, &str)]) -> Run {
    let mut command = sandbox.get();
    command.env("GOOGLE_APPLICATION_CREDENTIALS", sandbox.path("home/key.json"));
    sandbox.run(command.envs(variables.iter().copied()))
}

fn openssl(sandbox: &Sandbox, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(sandbox.path("home"))
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The authority of somebody else.
fn stranger(sandbox: &Sandbox) -> String {
    openssl(
        sandbox,
        "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=stranger -keyout o.key -out other.pem",
    );
    sandbox.path("home/other.pem").display().to_string()
}

/// Waits longer than the failure is remembered.
#[track_caller]
fn assert_given_soon(ask: impl Fn() -> Run) {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let run = ask();
        if run.code == Some(0) {
            assert_given(&run);
            return;
        }
        assert!(Instant::now() < give_up, "{run:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_pip_requests_and_gcloud_are_told_to_trust_is_trusted() {
    let sandbox = without_extra_ca();
    let ca = sandbox.path("ca.pem").display().to_string();
    assert_refused(&ask(&sandbox, &[]), "does not trust");
    for name in [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "PIP_CERT",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    ] {
        assert_given(&ask(&sandbox, &[(name, &ca)]));
    }
    let directory = sandbox.path("home/certificates");
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy(&ca, directory.join("0a1b2c3d.0")).unwrap();
    for name in ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"] {
        assert_given(&ask(&sandbox, &[(name, directory.to_str().unwrap())]));
    }
    let conf = sandbox.write("home/pip.conf", &format!("[global]\ncert = {ca}\n"));
    assert_given(&ask(&sandbox, &[("PIP_CONFIG_FILE", conf.to_str().unwrap())]));
    sandbox.write("home/.config/pip/pip.conf", &format!("[global]\ncert = {ca}\n"));
    assert_given(&ask(&sandbox, &[]));
    sandbox.write("home/.config/pip/pip.conf", "");
    let property = format!("[core]\ncustom_ca_certs_file = {ca}\n");
    sandbox.write("home/.config/gcloud/configurations/config_default", &property);
    assert_given(&ask(&sandbox, &[]));
}

#[test]
fn a_daemon_that_starts_by_itself_trusts_what_the_shell_does() {
    let sandbox = without_extra_ca();
    sandbox.sign_in();
    let ca = sandbox.path("ca.pem");
    assert_given(&sandbox.run(sandbox.get().env("REQUESTS_CA_BUNDLE", &ca)));
    assert!(sandbox.socket().exists(), "a daemon has started");
    assert_given(&sandbox.run(&mut sandbox.get()));
}

#[test]
fn the_hint_names_the_variable_that_is_set_and_what_to_do() {
    let sandbox = without_extra_ca();
    let (ca, other) = (sandbox.path("ca.pem").display().to_string(), stranger(&sandbox));
    let hint = |variables: &[(&str, &str)], words: &[&str]| {
        let run = ask(&sandbox, variables);
        for word in ["does not trust", "extra_ca"].iter().chain(words) {
            assert_refused(&run, word);
        }
    };
    for name in ["NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE", "npm_config_cafile"] {
        hint(
            &[(name, &ca)],
            &[&format!("{name} names {ca}: if that"), &format!("write `extra_ca = \"{ca}\"`")],
        );
    }
    // What is named in the system's place decides alone; the other bundle is told all the same.
    let decided = [("SSL_CERT_FILE", other.as_str()), ("REQUESTS_CA_BUNDLE", &ca)];
    hint(&decided, &[&format!("SSL_CERT_FILE ({other})"), &format!("REQUESTS_CA_BUNDLE names {ca}")]);
    hint(&[("PIP_CERT", &other)], &[&format!("not signed by what is trusted because of PIP_CERT ({other})")]);
    hint(&[("PIP_CERT", "ca.pem")], &["PIP_CERT (ca.pem): it is no absolute path"]);
    hint(&[("CURL_CA_BUNDLE", "/missing.pem")], &["CURL_CA_BUNDLE (/missing.pem): No such file"]);
}

#[test]
fn what_is_no_file_of_certificates_is_told_and_nothing_waits_for_its_end() {
    let sandbox = without_extra_ca();
    let pipe = sandbox.path("home/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    for path in ["/dev/zero", pipe.to_str().unwrap()] {
        let run = ask(&sandbox, &[("SSL_CERT_FILE", path)]);
        assert_refused(
            &run,
            &format!("no trusted root certificates; SSL_CERT_FILE ({path}): it is not a regular"),
        );
        assert_refused(&run, "correct or unset SSL_CERT_FILE");
        assert_refused(&ask(&sandbox, &[("REQUESTS_CA_BUNDLE", path)]), "it is not a regular file");
    }
}

#[test]
fn a_good_key_is_not_blamed_for_missing_certificates() {
    let sandbox = Sandbox::new();
    sandbox.service_account();
    let missing = [("SSL_CERT_FILE", "/missing.pem")];
    // With what the configuration names the key signs, whatever the system has.
    assert_given(&ask(&sandbox, &missing));
    let sandbox = without_extra_ca();
    let run = ask(&sandbox, &missing);
    assert_refused(&run, "no trusted root certificates; SSL_CERT_FILE (/missing.pem): No such file");
    assert!(!run.stderr.contains("private_key"), "{run:?}");
}

#[test]
fn certificates_that_are_installed_later_count_within_seconds() {
    let sandbox = Sandbox::new();
    sandbox.service_account();
    let ca = sandbox.path("ca.pem");
    let later = sandbox.path("later.pem");
    std::fs::rename(&ca, &later).unwrap();
    let _daemon = serve(&sandbox);
    assert_refused(&ask(&sandbox, &[]), "cannot read extra_ca");
    std::fs::rename(&later, &ca).unwrap();
    assert_given_soon(|| ask(&sandbox, &[]));
}

#[test]
fn certificates_that_are_replaced_count_within_seconds() {
    let sandbox = Sandbox::new();
    sandbox.service_account();
    let (ca, own) = (sandbox.path("ca.pem"), sandbox.path("own.pem"));
    std::fs::copy(&ca, &own).unwrap();
    std::fs::copy(stranger(&sandbox), &ca).unwrap();
    let _daemon = serve(&sandbox);
    assert_refused(&ask(&sandbox, &[]), "does not trust");
    std::fs::rename(&own, &ca).unwrap();
    assert_given_soon(|| ask(&sandbox, &[]));
}

fn serve(sandbox: &Sandbox) -> Daemon<'_> {
    sandbox.serve()
}

/// A server of Python's with a certificate. Ends with the value.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(sandbox: &Sandbox, name: &str) -> Self {
        let script = sandbox.write("home/server.py", SERVER);
        let mut command = sandbox.command("python3");
        command
            .env("PATH", real_path(sandbox))
            .arg(script)
            .arg(format!("{name}.pem"))
            .arg(format!("{name}.key"));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }

    /// Whether curl and Python take it where this file is what they trust.
    fn others_take(&self, sandbox: &Sandbox, named: &str) -> [bool; 2] {
        let url = format!("https://localhost:{}/", self.port);
        let python = format!(
            "import ssl, urllib.request as r; r.urlopen('{url}', context=ssl.create_default_context(cafile='{named}'))"
        );
        [vec!["curl", "-sf", "--cacert", named, &url], vec!["python3", "-c", &python]].map(|words| {
            let mut command = sandbox.command(words[0]);
            command.env("PATH", real_path(sandbox)).args(&words[1..]).stderr(Stdio::null());
            sandbox.run(&mut command).code == Some(0)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SERVER: &str = "\
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '5')
        self.end_headers()
        self.wfile.write(b'there')
    def log_message(self, *words):
        pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server = http.server.ThreadingHTTPServer(('localhost', 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";

/// Makes certificates, starts a server with the one called `shown`, names `named` as trusted, and asks the server as a
/// registry. What the daemon answered, and whether curl and Python take it.
fn asked(sandbox: &Sandbox, shown: &str, named: &str) -> (Answer, [bool; 2]) {
    let server = Server::start(sandbox, shown);
    let named = sandbox.path(&format!("home/{named}.pem"));
    let both = [sandbox.google.ca_pem(), std::fs::read_to_string(&named).unwrap()].concat();
    std::fs::write(sandbox.path("ca.pem"), both).unwrap();
    sandbox.configure(&format!("[[registry]]\nhost = \"localhost:{}\"\n", server.port));
    let mut daemon = serve(sandbox);
    let target = format!("/registry/localhost:{}/acme/private/simple/x/", server.port);
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = Answer::read(&exchange(sandbox, request.as_bytes()), false);
    daemon.terminate();
    (answer, server.others_take(sandbox, named.to_str().unwrap()))
}

fn make(sandbox: &Sandbox, name: &str, more: &str) {
    let names = if more.contains("subjectAltName") { "" } else { " -addext subjectAltName=DNS:localhost" };
    let days = if more.contains("-days") { "" } else { " -days 9" };
    openssl(
        sandbox,
        &format!(
            "req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {name}.key -out {name}.pem{names}{days} {more}"
        ),
    );
}

#[test]
fn a_servers_own_certificate_that_is_named_is_taken_as_curl_and_python_take_it() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    // CA:TRUE is what openssl writes where nobody says otherwise.
    for (name, more) in [
        ("plain", ""),
        ("leaf", "-addext basicConstraints=critical,CA:FALSE"),
        ("ec", "-newkey ec -pkeyopt ec_paramgen_curve:P-256"),
    ] {
        make(&sandbox, name, more);
        let (answer, others) = asked(&sandbox, name, name);
        assert_eq!((answer.status, answer.text().as_str(), others), (200, "there", [true, true]), "{name}");
    }
}

#[test]
fn no_other_certificate_is_taken_for_the_one_that_is_named() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let refused = |shown: &str, named: &str, word: &str| {
        let (answer, others) = asked(&sandbox, shown, named);
        assert_eq!((answer.status, others), (503, [false, false]), "{shown} {answer:?}");
        let problem = answer.problem().to_string();
        assert!(problem.contains("does not trust") && problem.contains(word), "{problem}");
    };
    make(&sandbox, "own", "");
    make(&sandbox, "twin", "");
    refused("twin", "own", "extra_ca");
    // The same key, and all the same words but for the serial number.
    openssl(
        &sandbox,
        "req -x509 -new -key own.key -subj /CN=localhost -out again.pem -days 9 -set_serial 77 \
         -addext subjectAltName=DNS:localhost",
    );
    std::fs::copy(sandbox.path("home/own.key"), sandbox.path("home/again.key")).unwrap();
    let (answer, _) = asked(&sandbox, "again", "own");
    assert_eq!(answer.status, 503, "{answer:?}");
    make(&sandbox, "elsewhere", "-addext subjectAltName=DNS:elsewhere.example");
    refused("elsewhere", "elsewhere", "another name");
    // It was good on one day long ago.
    openssl(&sandbox, "req -new -key own.key -subj /CN=localhost -out old.csr");
    sandbox.write("home/v3", "basicConstraints=CA:TRUE\nsubjectAltName=DNS:localhost\n");
    let Some(library) = super::patience::hurry() else { return };
    let old = Command::new("openssl")
        .args("x509 -req -in old.csr -signkey own.key -days 1 -extfile v3 -out old.pem".split_whitespace())
        .env("LD_PRELOAD", library)
        .env("FAKETIME", "2020-01-01 00:00:00")
        .current_dir(sandbox.path("home"))
        .output()
        .unwrap();
    assert!(old.status.success(), "{old:?}");
    std::fs::copy(sandbox.path("home/own.key"), sandbox.path("home/old.key")).unwrap();
    refused("old", "old", "clock");
}

#[test]
fn each_way_in_which_a_key_is_wrong_has_its_own_sentence() {
    let sandbox = Sandbox::new();
    let key = sandbox.google.service_account_key("builder@acme.iam.gserviceaccount.com");
    let asked_with = |pem: PathBuf| {
        let mut key: serde_json::Value = serde_json::from_str(&key).unwrap();
        key["private_key"] = std::fs::read_to_string(pem).unwrap().into();
        sandbox.write("home/key.json", &key.to_string());
        ask(&sandbox, &[])
    };
    for (make, word) in [
        ("genrsa -traditional -out wrong.pem 2048", "is in PKCS #1"),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out wrong.pem",
            "that can sign (WrongAlgorithm)",
        ),
        ("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out wrong.pem", "that can sign (TooSmall)"),
    ] {
        openssl(&sandbox, make);
        assert_refused(&asked_with(sandbox.path("home/wrong.pem")), word);
    }
    // A good one that openssl made.
    openssl(&sandbox, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out good.pem");
    assert_refused(&asked_with(sandbox.path("home/good.pem")), "Google refused the key");
    assert_eq!(sandbox.google.token_requests().len(), 1);
}
