//! The keychain vault against a real gnome-keyring: unlocked, locked with nobody who could be asked, locked with
//! somebody who does not answer, absent, and killed in the middle of a write. Whatever it does, each act ends by
//! its deadline and says what is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says where it could not be run"
)]

mod desktop;

use std::time::Duration;

use tokio::time::Instant;
use valetkey::ask::Access;
use valetkey::error::{Failure, Fault, Kind};
use valetkey::secret::Secret;
use valetkey::vault::{Entry, StoredSecret, Vault, VaultFault, Vaults};

use desktop::{Desktop, PASSWORD, has, wait_until};

fn entry() -> Entry {
    Entry { account: "developer@acme.example".to_owned(), access: Access::Read }
}

fn secret(word: &str) -> StoredSecret {
    StoredSecret {
        refresh_token: Secret::new(format!("1//fake-{word}-").repeat(20)),
        client_id: "client".to_owned(),
        client_secret: Secret::new(format!("fake-{word}")),
    }
}

/// As a helper has it.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn read(vaults: &Vaults) -> Result<StoredSecret, VaultFault> {
    vaults.read(Vault::Keychain, &entry(), soon()).await
}

async fn write(vaults: &Vaults, word: &str) -> Result<(), VaultFault> {
    vaults.write(Vault::Keychain, &entry(), &secret(word), soon()).await
}

#[track_caller]
fn told(fault: VaultFault, kind: Kind, words: &[&str]) {
    assert_eq!(fault.kind(), kind, "{fault:?}");
    let line = Failure::from(fault).one_line();
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
    assert!(!line.contains("fake-"), "{line}");
}

#[tokio::test]
async fn a_login_rests_in_an_unlocked_keychain() {
    let Some(mut desktop) = Desktop::unlocked() else { return };
    let vaults = desktop.vaults();
    vaults.probe(Vault::Keychain, soon()).await.unwrap();
    told(read(&vaults).await.unwrap_err(), Kind::NeedsLogin, &["the keychain holds no read login of"]);
    for word in ["one", "two"] {
        write(&vaults, word).await.unwrap();
        assert_eq!(read(&vaults).await.unwrap(), secret(word));
    }
    let other = Entry { access: Access::Write, ..entry() };
    let missing = vaults.read(Vault::Keychain, &other, soon()).await.unwrap_err();
    assert!(missing.is_missing(), "{missing:?}");
    if has(&["secret-tool"]) {
        let found = desktop.look_up("developer@acme.example read");
        assert!(found.starts_with(r#"{"refresh_token":"1//fake-two-"#), "{found}");
        assert_eq!(desktop.look_up("probe"), "", "the probe is gone");
    }
    // It was durable.
    desktop.start_keyring(Some(PASSWORD));
    assert_eq!(read(&vaults).await.unwrap(), secret("two"));
    vaults.delete(Vault::Keychain, &entry(), soon()).await.unwrap();
    assert!(read(&vaults).await.unwrap_err().is_missing());
    vaults.delete(Vault::Keychain, &entry(), soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_are_all_answered() {
    let Some(desktop) = Desktop::unlocked() else { return };
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let vaults = desktop.vaults();
        tasks.spawn(async move {
            let entry = Entry { account: format!("{number}@acme.example"), access: Access::Read };
            let until = Instant::now() + Duration::from_secs(30);
            let given = secret(&number.to_string());
            vaults.write(Vault::Keychain, &entry, &given, until).await.unwrap();
            assert_eq!(vaults.read(Vault::Keychain, &entry, until).await.unwrap(), given);
        });
    }
    tasks.join_all().await;
}

/// A keychain that holds a login and is locked.
async fn locked() -> Option<Desktop> {
    let mut desktop = Desktop::unlocked()?;
    write(&desktop.vaults(), "old").await.unwrap();
    desktop.start_keyring(None);
    Some(desktop)
}

#[tokio::test]
async fn a_locked_keychain_without_a_prompter_is_an_error_with_its_remedy() {
    let Some(mut desktop) = locked().await else { return };
    let vaults = desktop.vaults();
    let remedy = ["the keychain is locked", "unlock the keychain", "vault = \"file\""];
    told(read(&vaults).await.unwrap_err(), Kind::Local, &remedy);
    told(write(&vaults, "new").await.unwrap_err(), Kind::Local, &remedy);
    told(vaults.probe(Vault::Keychain, soon()).await.unwrap_err(), Kind::Local, &remedy);
    told(vaults.delete(Vault::Keychain, &entry(), soon()).await.unwrap_err(), Kind::Local, &remedy);
    let other = Entry { account: "other@acme.example".to_owned(), access: Access::Read };
    let fault = vaults.write(Vault::Keychain, &other, &secret("new"), soon()).await.unwrap_err();
    assert!(!fault.is_absent_keychain() && !fault.is_missing(), "a locked keychain is there: {fault:?}");
    // The same vaults recover as soon as it is unlocked.
    desktop.start_keyring(Some(PASSWORD));
    assert_eq!(read(&vaults).await.unwrap(), secret("old"));
}

#[tokio::test]
async fn a_question_that_nobody_answers_costs_the_deadline() {
    let Some(mut desktop) = locked().await else { return };
    if !desktop.add_screen() {
        return;
    }
    desktop.start_keyring(None);
    let vaults = desktop.vaults();
    let until = || Instant::now() + Duration::from_secs(2);
    let words = ["the keychain did not answer within", "answer the window that asks"];
    told(vaults.read(Vault::Keychain, &entry(), until()).await.unwrap_err(), Kind::Deadline, &words);
    assert!(desktop.has_owner("org.gnome.keyring.SystemPrompter"), "somebody was asked");
    told(vaults.probe(Vault::Keychain, until()).await.unwrap_err(), Kind::Deadline, &words);
    desktop.start_keyring(Some(PASSWORD));
    assert_eq!(read(&vaults).await.unwrap(), secret("old"));
}

#[tokio::test]
async fn a_question_that_somebody_answers_gives_the_login() {
    let Some(mut desktop) = locked().await else { return };
    if !desktop.add_screen() {
        return;
    }
    desktop.start_keyring(None);
    let vaults = desktop.vaults();
    let asked = tokio::spawn(async move {
        let until = Instant::now() + Duration::from_secs(120);
        vaults.read(Vault::Keychain, &entry(), until).await
    });
    let desktop = tokio::task::spawn_blocking(move || {
        wait_until("a window asks", || desktop.is_asked());
        desktop.answer();
        desktop
    });
    let _desktop = desktop.await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), secret("old"));
}

#[tokio::test]
async fn a_keychain_that_comes_later_is_found() {
    if !has(&["dbus-daemon", "dbus-send", "gnome-keyring-daemon"]) {
        return;
    }
    let mut desktop = Desktop::new();
    let vaults = desktop.vaults();
    let absent = ["there is no keychain here", "start the desktop's keychain"];
    // No bus, the socket of one that died, and a bus that nothing serves.
    told(read(&vaults).await.unwrap_err(), Kind::Local, &absent);
    drop(std::os::unix::net::UnixListener::bind(desktop.path("bus")).unwrap());
    for fault in [read(&vaults).await.unwrap_err(), write(&vaults, "one").await.unwrap_err()] {
        assert!(fault.is_absent_keychain(), "{fault:?}");
    }
    std::fs::remove_file(desktop.path("bus")).unwrap();
    desktop.start_bus();
    let unserved = vaults.probe(Vault::Keychain, soon()).await.unwrap_err();
    assert!(unserved.is_absent_keychain(), "{unserved:?}");
    told(unserved, Kind::Local, &["nothing serves org.freedesktop.secrets"]);
    // A keychain that was never set up, and could not be without a prompter.
    desktop.start_keyring(None);
    let empty = vaults.probe(Vault::Keychain, soon()).await.unwrap_err();
    assert!(empty.is_absent_keychain(), "{empty:?}");
    assert!(read(&vaults).await.unwrap_err().is_missing());
    desktop.start_keyring(Some(PASSWORD));
    vaults.probe(Vault::Keychain, soon()).await.unwrap();
}

/// Which of the words the keychain holds, whole.
async fn word(vaults: &Vaults) -> &'static str {
    let found = read(vaults).await.unwrap();
    ["old", "new"].into_iter().find(|word| secret(word) == found).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keychain_that_is_killed_in_the_middle_of_a_write_keeps_the_old_login_or_the_new_one() {
    let Some(mut desktop) = Desktop::unlocked() else { return };
    let vaults = desktop.vaults();
    let mut seen = Vec::new();
    for round in 0..MOST_ROUNDS {
        write(&vaults, "old").await.unwrap();
        let pid = desktop.keyring_pid();
        let writing = tokio::spawn({
            let vaults = vaults.clone();
            async move { write(&vaults, "new").await }
        });
        // Not waiting for anything: the moment is what varies.
        tokio::time::sleep(Duration::from_millis(round * 4)).await;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let outcome = writing.await.unwrap();
        let is_over = outcome.is_ok() && round > 20;
        desktop.start_keyring(Some(PASSWORD));
        let word = word(&vaults).await;
        match outcome {
            Ok(()) => assert_eq!(word, "new", "round {round}: it was said to be written"),
            Err(fault) => {
                assert!(!fault.is_missing(), "round {round}: {fault:?}");
                told(fault, Kind::Local, &["keychain"]);
            }
        }
        seen.push(word);
        // From here on each write is over before it is disturbed.
        if is_over {
            break;
        }
    }
    assert!(seen.contains(&"old") && seen.contains(&"new"), "{seen:?}");
}

#[tokio::test]
async fn a_child_that_is_killed_in_the_middle_of_a_write_leaves_the_old_login_or_the_new_one() {
    let Some(desktop) = Desktop::unlocked() else { return };
    let vaults = desktop.vaults();
    let mut seen = Vec::new();
    for round in 0..MOST_ROUNDS {
        write(&vaults, "old").await.unwrap();
        // The end of the time is the end of the child.
        let until = Instant::now() + Duration::from_millis(round * 5);
        let outcome = vaults.write(Vault::Keychain, &entry(), &secret("new"), until).await;
        let is_over = outcome.is_ok() && round > 20;
        let word = word(&vaults).await;
        match outcome {
            Ok(()) => assert_eq!(word, "new", "round {round}: it was said to be written"),
            Err(fault) => told(fault, Kind::Deadline, &["the keychain did not answer"]),
        }
        seen.push(word);
        // From here on each write is over before it is disturbed.
        if is_over {
            break;
        }
    }
    assert!(seen.contains(&"old") && seen.contains(&"new"), "{seen:?}");
}

/// More than a slow machine needs for a write, at some milliseconds more a round.
const MOST_ROUNDS: u64 = 400;
