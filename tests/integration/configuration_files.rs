//! Configuration and policy as files: what is there counts whole or is an error, and whoever else could write it is told.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::harness::{CONFIGURATION, Run, Sandbox, is_ci};
use super::listeners::is_root;
use super::{assert_given, assert_refused};

fn token(sandbox: &Sandbox) -> Run {
    sandbox.run(sandbox.valetkey().arg("token").env("VALETKEY_AUTO_START", "false"))
}

#[track_caller]
fn assert_wrong(sandbox: &Sandbox, words: &[&str]) {
    let run = token(sandbox);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
    for word in words {
        assert!(run.stderr.contains(word), "{word:?} is not in {run:?}");
    }
    assert_refused(&sandbox.run(&mut sandbox.get()), words[0]);
    assert!(sandbox.google.token_requests().is_empty());
}

/// A file of a certain length, whose last line counts.
fn padded(text: &str, last: &str, length: usize) -> String {
    let line = "# a comment\n";
    let room = length - text.len() - last.len();
    let mut filler = line.repeat(room / line.len()) + &"#".repeat(room % line.len());
    if filler.pop().is_some() {
        filler.push('\n');
    }
    format!("{text}{filler}{last}")
}

const MEBIBYTE: usize = 1 << 20;

#[test]
fn a_configuration_that_is_larger_than_is_read_is_an_error_and_not_cut() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let text = fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap();
    sandbox.write(CONFIGURATION, &padded(&text, "", MEBIBYTE));
    assert_given(&token(&sandbox));
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let text = fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap();
    for length in [MEBIBYTE + 1, MEBIBYTE + 2, 3 * MEBIBYTE] {
        sandbox.write(CONFIGURATION, &padded(&text, "", length));
        assert_wrong(&sandbox, &["config.toml is larger than 1 MiB", "shorten"]);
    }
}

#[test]
fn a_configuration_that_is_there_and_cannot_be_had_does_not_count_as_none() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let file = sandbox.path(CONFIGURATION);
    let place = |make: &dyn Fn(&Path)| {
        let _ = fs::remove_file(&file).or_else(|_| fs::remove_dir(&file));
        make(&file);
        assert_wrong(&sandbox, &["cannot read the configuration file"]);
    };
    place(&|file| symlink("nowhere.toml", file).unwrap());
    place(&|file| symlink("config.toml", file).unwrap());
    place(&|file| fs::create_dir(file).unwrap());
    place(&|file| {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    });
    place(&|file| fs::write(file, b"log = \"info\"\n# \xff\n").unwrap());
    // Its directory.
    let directory = file.parent().unwrap();
    fs::remove_dir_all(directory).unwrap();
    symlink("nowhere", directory).unwrap();
    assert_wrong(&sandbox, &["cannot read the configuration file", "leads nowhere"]);
    fs::remove_file(directory).unwrap();
    fs::write(directory, "").unwrap();
    assert_wrong(&sandbox, &["cannot read the configuration file"]);
}

#[test]
fn whoever_has_no_home_has_no_configuration_and_no_error() {
    let sandbox = Sandbox::new();
    for home in ["/dev/null", "/nonexistent"] {
        let run = sandbox.run(sandbox.valetkey().arg("status").env("HOME", home));
        assert_eq!(run.code, Some(0), "{run:?}");
    }
}

/// Runs a script where `/etc/valetkey` is empty and our own; `None` where that cannot be had.
fn at_etc(sandbox: &Sandbox, script: &str) -> Option<Run> {
    let script = format!(
        "mkdir -p /etc/valetkey; mount -t tmpfs -o mode=755,size=8m tmpfs /etc/valetkey || exit 77\n{script}"
    );
    let mut command = sandbox.command("/usr/bin/unshare");
    let path = format!("{}:/usr/sbin:/sbin:/bin:/usr/bin", sandbox.path("bin").display());
    command.args(["--mount", "/bin/sh", "-c", &script]).env("PATH", path).env("VALETKEY_AUTO_START", "false");
    let run = sandbox.run(&mut command);
    if run.code == Some(77) || run.stderr.contains("unshare failed") {
        assert!(!is_ci(), "CI can mount: {run:?}");
        println!("skipped: a file system of one's own needs root");
        return None;
    }
    Some(run)
}

#[test]
fn a_policy_that_is_there_and_cannot_be_had_does_not_count_as_none() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let long = sandbox.write("tmp/long", &padded("", "sources = [\"metadata\"]\n", MEBIBYTE + 1));
    let fits = sandbox.write("tmp/fits", &padded("", "sources = [\"metadata\"]\n", MEBIBYTE));
    let policy = "/etc/valetkey/policy.toml";
    for (make, word) in [
        (format!("ln -s /nowhere {policy}"), "leads nowhere"),
        (format!("ln -s policy.toml {policy}"), "cannot read"),
        (format!("mkfifo {policy}"), "not a regular file"),
        (format!("mkdir {policy}"), "it is a directory"),
        (format!("ln -s /dev/zero {policy}"), "not a regular file"),
        (format!("printf 'tokens = false # \\377\\n' >{policy}"), "cannot read"),
        (format!("cp {} {policy}", long.display()), "is larger than 1 MiB"),
        (format!("echo 'tokens = maybe' >{policy}"), "policy.toml:1"),
        (
            format!("echo 'tokens = false' >{policy}; chgrp 1 {policy}; chmod 664 {policy}"),
            "written by its group",
        ),
        (format!("echo 'tokens = false' >{policy}; chmod 664 {policy}"), "written by its group"),
        (format!("echo 'tokens = false' >{policy}; chmod 646 {policy}"), "written by other users"),
        (format!("echo 'tokens = false' >{policy}; chown 4711 {policy}"), "belongs to uid 4711"),
        (
            format!("printf '\\nrepositories = [\"us/acme/private\", \"us/acme\"]\\n' >{policy}"),
            "policy.toml:2: repositories: \"us/acme\"",
        ),
        (format!("printf 'repositories = [\"eu/acme/x\"]\\n' >{policy}"), "not a location of Google's"),
    ] {
        let Some(run) = at_etc(&sandbox, &format!("{make}; valetkey token")) else { return };
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{make}: {run:?}");
        assert!(
            run.stderr.contains(word) && run.stderr.contains("/etc/valetkey/policy.toml"),
            "{make}: {run:?}"
        );
    }
    // What stands at the very end of what is read counts.
    let run = at_etc(&sandbox, &format!("cp {} {policy}; valetkey token", fits.display())).unwrap();
    assert!(run.code != Some(0) && run.stderr.contains("does not allow"), "{run:?}");
    assert!(sandbox.google.token_requests().is_empty());
}

#[test]
fn a_repository_that_is_none_is_told_with_file_line_and_key_by_every_command() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let lines = fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap().lines().count();
    for (section, key) in [
        ("[build]\nrepositories = [\"us/acme\"]", "[build] repositories"),
        ("[index]\nrepositories = [\"us/acme\"]", "[index] repositories"),
        ("[[listener]]\nrepositories = [\"us/acme\"]\nunix = \"/s\"", "[[listener]] repositories"),
    ] {
        sandbox.configure(&format!("{section}\n"));
        let told = format!("config.toml:{}: {key}: \"us/acme\" is not a repository", lines + 2);
        assert_wrong(&sandbox, &[&told, "LOCATION/PROJECT/REPOSITORY"]);
        for words in [&["serve"][..], &["status"], &["exec", "--", "true"]] {
            let run = sandbox.run(sandbox.valetkey().args(words));
            assert!(run.code != Some(0) && run.stderr.contains(&told), "{words:?}: {run:?}");
        }
    }
    sandbox.configure("[[account]]\naccount = \"a@b.test\"\nregistry = \"pdm-pypi-us-python.pkg.dev\"\n");
    assert_wrong(&sandbox, &["[[account]] registry: \"pdm-pypi-us-python.pkg.dev\" is not a registry"]);
}

#[test]
fn a_reload_that_finds_a_wrong_repository_keeps_what_was_in_force() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let text = fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap();
    sandbox.configure("[build]\nrepositories = [\"us/acme\"]\n");
    let run = sandbox.run(sandbox.valetkey().arg("reload"));
    assert!(run.code != Some(0) && run.stderr.contains("[build] repositories"), "{run:?}");
    sandbox.write(CONFIGURATION, &text);
    assert_given(&token(&sandbox));
}

/// A user and a group of the same number of members, as most systems make them.
const UID: u32 = 54_321;
const USERS: &str =
    "root:x:0:0::/root:/bin/sh\ndev:x:54321:54322::/:/bin/sh\nanna:x:54323:54323::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\ndev:x:54322:\nstaff:x:50:dev,anna\nanna:x:54323:\n";

/// `valetkey token` as that user, whose configuration has this mode and group, where the tables say this.
fn as_user(mode: u32, group: u32, users: &str, groups: &str) -> Option<Run> {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let script = format!(
        "mount --bind {} /etc/passwd && mount --bind {} /etc/group || exit 77\n\
         exec setpriv --reuid {UID} --regid 54322 --groups 54322,50 valetkey token",
        sandbox.write("tmp/users", users).display(),
        sandbox.write("tmp/groups", groups).display(),
    );
    for table in ["tmp/users", "tmp/groups"] {
        fs::set_permissions(sandbox.path(table), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let status =
        std::process::Command::new("chown").arg("-R").arg(UID.to_string()).arg(sandbox.path("")).status();
    assert!(status.unwrap().success());
    let file = sandbox.path(CONFIGURATION);
    chown(&file, Some(UID), Some(group)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    at_etc(&sandbox, &script)
}

#[test]
fn a_configuration_that_the_users_own_group_may_write_is_read() {
    if !is_root("another user's files") {
        return;
    }
    for mode in [0o664, 0o660, 0o644] {
        let Some(run) = as_user(mode, 54_322, USERS, GROUPS) else { return };
        assert_given(&run);
    }
    // As some systems write it.
    assert_given(&as_user(0o664, 54_322, USERS, &GROUPS.replace("54322:", "54322:dev")).unwrap());
}

#[test]
fn a_configuration_that_anybody_else_may_write_is_refused() {
    if !is_root("another user's files") {
        return;
    }
    for (mode, group, users, groups) in [
        (0o666, 54_322, USERS.to_owned(), GROUPS.to_owned()),
        (0o664, 50, USERS.to_owned(), GROUPS.to_owned()),
        (0o664, 54_323, USERS.to_owned(), GROUPS.to_owned()),
        (0o664, 0, USERS.to_owned(), GROUPS.to_owned()),
        (0o664, 54_322, USERS.to_owned(), GROUPS.replace("54322:", "54322:anna")),
        (0o664, 54_322, USERS.replace("54323:54323", "54323:54322"), GROUPS.to_owned()),
        (0o664, 54_322, USERS.replace("dev:x:54321", "gone:x:54320"), GROUPS.to_owned()),
        (0o664, 54_322, USERS.to_owned(), "root:x:0:\n".to_owned()),
    ] {
        let Some(run) = as_user(mode, group, &users, &groups) else { return };
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{mode:o} {group}: {run:?}");
        assert!(run.stderr.contains("can be written by") && run.stderr.contains("chmod go-w"), "{run:?}");
    }
}

/// One whom the list lets write: the mode of the group then shows no group.
#[test]
fn an_access_list_is_no_private_group() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let list = [
        2_u32.to_le_bytes().to_vec(),
        entry(0x01, 6, none),
        entry(0x02, 6, 4711),
        entry(0x04, 4, none),
        entry(0x10, 6, none),
        entry(0x20, 4, none),
    ];
    let file = sandbox.path(CONFIGURATION);
    let flags = rustix::fs::XattrFlags::empty();
    if let Err(error) = rustix::fs::setxattr(&file, c"system.posix_acl_access", &list.concat(), flags) {
        println!("skipped: this file system has no access lists ({error})");
        return;
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o664);
    assert_wrong(&sandbox, &["can be written by those on its access list", "chmod go-w"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_given(&token(&sandbox));
}
