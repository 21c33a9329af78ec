//! What a helper costs its caller: `keyring get` against `/bin/true`, against itself for a service that nobody
//! serves, and against Python's `keyring`; and what the first ask of a session costs, which has to start the daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::race::{Runner, race};
use super::reader::median;
use super::sandbox::{INDEX, Sandbox, USERNAME, timed};
use super::stand_in::{Fault, Options, StandIn};
use super::table::{Table, Target, Unit};

/// A warm `get` and an unknown service, each against the least that any program can do. Two copies of that least
/// run against each other and show how much of a ratio is noise.
pub(crate) fn against_true(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    for sandbox in sandboxes {
        sandbox.first_ask();
    }
    let [one, two] = sandboxes;
    let least = |sandbox: &Sandbox<'_>| Runner::new("/bin/true", sandbox.command("/bin/true"));
    let get = |sandbox: &Sandbox<'_>| {
        Runner::new(format!("get, {}", sandbox.build.name), sandbox.get(INDEX, USERNAME)).giving_a_token()
    };
    let unknown = |sandbox: &Sandbox<'_>| {
        let command = sandbox.get("python-poetry-check", "python-poetry");
        Runner::new(format!("unknown, {}", sandbox.build.name), command).finding_nothing()
    };
    let runners = [least(one), least(two), get(one), unknown(one), get(two), unknown(two)];
    let [least, again, get_one, unknown_one, get_two, unknown_two] = race(runners, rounds);

    let truth = least.median();
    let noise = format!("{truth:.2} ms; the noise of this run, {rounds} rounds");
    table.row("/bin/true / itself".to_owned(), Target::None, again.median() / truth, Unit::Times, &noise);
    for (sandbox, get, unknown) in [(one, get_one, unknown_one), (two, get_two, unknown_two)] {
        let (name, get, unknown) = (sandbox.build.name, get.median(), unknown.median());
        let measure = format!("warm keyring get / true, {name}");
        table.row(measure, sandbox.build.warm_target, get / truth, Unit::Times, &format!("{get:.2} ms"));
        let measure = format!("unknown service / warm get, {name}");
        table.row(measure, Target::AtMost(1.0), unknown / get, Unit::Times, &format!("{unknown:.2} ms"));
    }
    for sandbox in sandboxes {
        sandbox.stop();
    }
}

/// The same question to Python's `keyring` with Google's backend: the same service account's key, the same token
/// endpoint, the same environment. That one asks the endpoint every time; ours has asked it once.
pub(crate) fn against_python(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], python: &Path, rounds: usize) {
    let [one, two] = sandboxes;
    // Google's library signs for Google's own endpoint, whatever endpoint the key names, so Python's stand-in has
    // to go by that name. Key and endpoint differ from ours in nothing else.
    let public_origin = Some(GOOGLES_ENDPOINT.to_owned());
    let google = StandIn::start(Options { public_origin, ..Options::default() });
    let key = google
        .service_account_key(ACCOUNT)
        .replace(&google.token_uri(), &format!("{}/token", google.origin()));
    let pythons = (one.write("python/key.json", &key), one.write("python/ca.pem", &google.ca_pem()));
    let with_key = |mut command: Command, (key, ca): (PathBuf, PathBuf)| {
        command.env("GOOGLE_APPLICATION_CREDENTIALS", key).env("REQUESTS_CA_BUNDLE", ca);
        command
    };

    // A service account starts no daemon; these two are started by hand.
    let mut daemons = sandboxes.each_ref().map(Sandbox::serve);
    let get = |sandbox: &Sandbox<'_>| {
        let key = sandbox.write("valets/key.json", &sandbox.google.service_account_key(ACCOUNT));
        let command = with_key(sandbox.get(INDEX, USERNAME), (key, sandbox.path("ca.pem")));
        Runner::new(format!("get, {}", sandbox.build.name), command).giving_a_token()
    };
    let mut command = one.command(python);
    command.args(["get", INDEX, USERNAME]);
    let python = Runner::new("Python's keyring", with_key(command, pythons)).giving_a_token();
    let before = one.google.token_requests().len();
    let [python, get_one, get_two] = race([python, get(one), get(two)], rounds);
    assert_eq!(one.google.token_requests().len() - before, 2, "each of our daemons asks the endpoint once");

    let slow = python.median();
    for (sandbox, get) in [(one, get_one), (two, get_two)] {
        let (measure, get) = (format!("Python's keyring / ours, {}", sandbox.build.name), get.median());
        let note = format!("{slow:.0} ms against {get:.2} ms, {rounds} rounds");
        table.row(measure, Target::AtLeast(100.0), slow / get, Unit::Times, &note);
    }
    for (sandbox, daemon) in sandboxes.iter().zip(&mut daemons) {
        sandbox.stop();
        let _ = daemon.wait();
    }
}

/// The first ask of a session starts the daemon, which makes the first upstream call. The stand-in waits a while
/// before each answer, as Google does. That wait is all that is taken off: starting two processes, reading the
/// system's certificates and the TLS handshake count as ours.
pub(crate) fn first_asks(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    let google = sandboxes[0].google;
    google.token_fault_always(Some(Fault::Delay(UPSTREAM)));
    let mut with_start = [Vec::new(), Vec::new()];
    let mut in_process = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (number, sandbox) in sandboxes.iter().enumerate() {
            sandbox.stop();
            let mut get = sandbox.get(INDEX, USERNAME);
            get.env("VALETKEY_AUTO_START", "false");
            let (took, code, said) = timed(&mut get);
            assert!(code == Some(0) && said.starts_with(b"ya29."), "{}: in process", sandbox.build.name);
            assert!(sandbox.daemon().is_none(), "{}: a daemon started", sandbox.build.name);
            in_process[number].push(took);

            let (took, code, said) = timed(&mut sandbox.get(INDEX, USERNAME));
            assert!(code == Some(0) && said.starts_with(b"ya29."), "{}: first ask", sandbox.build.name);
            assert!(sandbox.daemon().is_some(), "{}: no daemon started", sandbox.build.name);
            with_start[number].push(took);
        }
    }
    google.token_fault_always(None);
    for (number, sandbox) in sandboxes.iter().enumerate() {
        sandbox.stop();
        let name = sandbox.build.name;
        let above = |times: &[Duration]| (median(times) - UPSTREAM.as_secs_f64()) * 1000.0;
        let note = format!("upstream {} ms taken off, {rounds} rounds", UPSTREAM.as_millis());
        let (first, alone) = (above(&with_start[number]), above(&in_process[number]));
        table.row(
            format!("first ask with auto-start, {name}"),
            Target::AtMost(250.0),
            first,
            Unit::Milliseconds,
            &note,
        );
        table.row(
            format!("same ask, no daemon, {name}"),
            Target::None,
            alone,
            Unit::Milliseconds,
            "same taken off",
        );
    }
}

const ACCOUNT: &str = "builder@acme.iam.gserviceaccount.com";
/// The audience of every assertion that Google's library for Python signs.
const GOOGLES_ENDPOINT: &str = "https://oauth2.googleapis.com";
/// About what Google's own endpoint takes.
const UPSTREAM: Duration = Duration::from_millis(100);
