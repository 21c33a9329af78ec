use proptest::prelude::*;

use super::*;

fn paths(runtime: std::path::PathBuf) -> Paths {
    Paths { configuration: None, state: None, runtime, gcloud: None }
}

#[test]
fn a_refusal_is_remembered_for_its_host_only_and_where_it_cannot_be_it_is_assumed() {
    let top = tempfile::tempdir().unwrap();
    let here = paths(top.path().join("valetkey"));
    let call = Call::of_this();
    let is_refused = |paths: &Paths, host: &str| check(paths, call, host).is_err();
    assert!(!is_refused(&here, "us-python.pkg.dev"));
    remember(&here, call, "us-python.pkg.dev");
    assert!(is_refused(&here, "us-python.pkg.dev"));
    assert!(is_refused(&here, "us-python.pkg.dev:443"));
    assert!(!is_refused(&here, "eu-python.pkg.dev"));
    let nowhere = paths(top.path().join("missing/valetkey"));
    assert!(is_refused(&nowhere, "us-python.pkg.dev"), "a memory that cannot be had");
}

#[test]
fn a_mark_that_says_nothing_counts_for_everybody_and_one_beside_it_for_nobody_else() {
    let top = tempfile::tempdir().unwrap();
    let here = paths(top.path().join("valetkey"));
    let call = Call::of_this();
    ensure_private(&here.runtime).unwrap();
    let mark = here.runtime.join(format!("{}x", prefix("h.test")));
    for text in ["", "pid:[1] 5 1:2", "pid:[1]", "\u{0}"] {
        fs::write(&mark, text).unwrap();
        assert!(check(&here, call, "h.test").is_err(), "{text:?}");
    }
    // Refused to a brother of ours that came after us.
    let mut brother = Trail::of(call).unwrap();
    brother.started = u64::MAX;
    brother.above.remove(0);
    fs::write(&mark, brother.to_string()).unwrap();
    assert_eq!(check(&here, call, "h.test"), Ok(()));
    // And as many as that are everybody.
    for number in 0..MOST {
        fs::write(here.runtime.join(format!("{}{number}", prefix("h.test"))), brother.to_string()).unwrap();
    }
    assert!(check(&here, call, "h.test").is_err());
}

/// A chain of processes that begin one after the other, the youngest first.
fn chain(pids: &mut i32, from: u64, length: usize) -> Vec<Process> {
    let link = |step: usize| {
        *pids += 1;
        Process { pid: *pids, started: from + step as u64 }
    };
    let mut chain: Vec<_> = (0..length).map(link).collect();
    chain.reverse();
    chain
}

fn trail(parts: &[&[Process]], started: u64, shown: usize) -> Trail {
    let above = parts.concat().into_iter().take(shown).collect();
    Trail { namespace: "pid:[4026531836]".to_owned(), started, above }
}

proptest! {
    /// Whatever stands between a client and us, whatever the kernel hides of it, and whoever adopted a wrapper meanwhile.
    #[test]
    fn what_a_client_starts_after_its_refusal_is_never_beside_it(
        above in 0..6_usize, between in 0..6_usize, again in 0..6_usize,
        shown in 0..20_usize, shown_again in 0..20_usize, adopted in any::<bool>(), pause in 0..3_u64,
    ) {
        let mut pids = 0;
        let top = chain(&mut pids, 1, above);
        let client = chain(&mut pids, 100, 1);
        let first = chain(&mut pids, 200, between);
        let refused = trail(&[&first, &client, &top], 300, shown);
        let second = chain(&mut pids, 300 + pause, again);
        // A wrapper that lost its parent hangs below whatever stands at the top.
        let stem: &[&[Process]] = if adopted { &[&second, &top] } else { &[&second, &client, &top] };
        let asking = trail(stem, 400, shown_again);
        prop_assert!(!asking.is_beside(&refused), "{asking:?} {refused:?}");
        prop_assert_eq!(refused.to_string().parse::<Trail>(), Ok(refused));
    }

    #[test]
    fn what_was_running_beside_a_client_is_beside_it(
        above in 1..6_usize, between in 0..6_usize, again in 0..6_usize, common in 1..4_usize,
    ) {
        let mut pids = 0;
        let top = chain(&mut pids, 1, above);
        let (client, other) = (chain(&mut pids, 100, common), chain(&mut pids, 100, common));
        let refused = trail(&[&chain(&mut pids, 200, between), &client, &top], 300, 99);
        let asking = trail(&[&chain(&mut pids, 350, again), &other, &top], 400, 99);
        prop_assert!(asking.is_beside(&refused));
        let elsewhere = Trail { namespace: "pid:[1]".to_owned(), ..refused };
        prop_assert!(!asking.is_beside(&elsewhere));
    }
}
