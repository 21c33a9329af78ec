//! The main job in its smallest form.

use super::harness::Sandbox;

#[test]
fn a_sign_in_starts_a_daemon_that_answers_from_then_on() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let first = sandbox.run(&mut sandbox.get());
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.stdout.starts_with("ya29.") && first.stdout.ends_with('\n'), "{first:?}");
    assert_eq!(first.stderr, "");
    let second = sandbox.run(&mut sandbox.get());
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(sandbox.google.token_requests().len(), 1);
}
