//! A static program looks up names by itself: in an image with no C library at all, and in one whose configuration
//! names plug-ins of another C library, which would end the program at the first look-up.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::Duration;

use super::engine::{Engine, PATIENCE, Release, assert_success};
use super::prepared;
use super::process::run;

/// One metadata server that says no, and what was asked of it by which name.
fn metadata_server() -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).unwrap();
        head.truncate(length);
        let answer = "HTTP/1.1 403 Forbidden\r\nmetadata-flavor: Google\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&head).into_owned()
    });
    (port, thread)
}

#[test]
fn hosts_are_found_where_there_is_no_c_library() {
    if prepared::static_program().is_none() {
        return;
    }
    for engine in Engine::all() {
        let (port, asked) = metadata_server();
        let host = format!("GCE_METADATA_HOST=metadata.test:{port}");
        let flags = ["--network", "host", "--add-host", "metadata.test:127.0.0.1", "--env", &host];
        let run = engine.run(&[flags.as_slice(), &[engine.valetkey(), "token"]].concat());
        assert_ne!(run.code, Some(0), "{run:?}");
        let asked = asked.join().unwrap();
        assert!(asked.contains(&format!("metadata.test:{port}")), "{}: {asked}", engine.version);
    }
}

#[test]
fn plug_ins_of_another_c_library_are_not_loaded() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    // A plug-in that ends whoever loads it, in place of one that crashes for being of another version.
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("poison.c");
    let library = directory.path().join("libnss_poison.so.2");
    std::fs::write(
        &source,
        "#include <unistd.h>\n__attribute__((constructor)) static void load(void) { _exit(77); }\n",
    )
    .unwrap();
    let mut compile = Command::new("cc");
    assert_success(&run(compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source), PATIENCE));
    let library = std::fs::read(library).unwrap();
    let (port, asked) = metadata_server();
    let dockerfile = format!(
        "FROM {}\n\
         COPY libnss_poison.so.2 /usr/lib/\n\
         RUN ldconfig && printf 'hosts: poison\\npasswd: poison\\n' >/etc/nsswitch.conf\n\
         RUN getent hosts metadata.test; test $? = 77\n\
         RUN --mount=from={},source=/valetkey,target=/usr/local/bin/valetkey \
             GCE_METADATA_HOST=metadata.test:{port} valetkey token; \
             test $? = 3 && env -u HOME -u USER valetkey status\n",
        engine.base(),
        engine.valetkey(),
    );
    let flags = ["--network", "host", "--add-host", "metadata.test:127.0.0.1"].map(str::to_owned);
    let built = engine.build(&dockerfile, &[("libnss_poison.so.2", &library)], &flags);
    built.assert_success();
    assert!(asked.join().unwrap().contains("metadata.test"));
}
