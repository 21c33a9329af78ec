//! The cache under paused time: an upstream that does what its script says, and a wall clock that follows tokio's.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use tokio::task::JoinSet;

use super::*;
use crate::secret::{AccessToken, Secret};

/// What the upstream does with one call.
#[derive(Debug, Clone)]
enum Act {
    /// After a delay, a token that lives so long.
    Token(Duration, Duration),
    /// After a delay, the token that was given last, with the expiry it has.
    Same(Duration),
    Fail(Duration, Failure),
    /// Says meanwhile that it runs, and is cut when it must be.
    Late(Duration),
    Panic,
}

#[derive(Debug, Default)]
struct Script {
    acts: Mutex<VecDeque<Act>>,
    calls: Mutex<Vec<Request>>,
    last: Mutex<Option<AccessToken>>,
    changed: AtomicBool,
    lingers: Mutex<Duration>,
    clock: Mutex<Option<Clock>>,
}

#[derive(Debug, Clone, Default)]
struct Fake(Arc<Script>);

impl Upstream for Fake {
    async fn mint(&self, _named: Option<&NamedSource>, request: Request) -> Result<Minted, Failure> {
        let (meanwhile, at_most) = (request.meanwhile.clone(), request.at_most);
        let number = {
            let mut calls = self.0.calls.lock().unwrap();
            calls.push(request);
            calls.len()
        };
        let act = self.0.acts.lock().unwrap().pop_front().unwrap_or(Act::Token(Duration::ZERO, HOUR));
        let clock = self.0.clock.lock().unwrap().unwrap();
        let token = match act {
            Act::Token(delay, life) => {
                tokio::time::sleep(delay).await;
                let now = clock.now();
                AccessToken::new(Secret::new(format!("token-{number}")), now, now + life).unwrap()
            }
            Act::Same(delay) => {
                tokio::time::sleep(delay).await;
                let last = self.0.last.lock().unwrap().clone().unwrap();
                AccessToken { obtained: clock.now(), ..last }
            }
            Act::Fail(delay, failure) => {
                tokio::time::sleep(delay).await;
                return Err(failure);
            }
            Act::Late(delay) => {
                meanwhile.say(Failure::new(Kind::Deadline, "it is still running"));
                let ended = tokio::time::timeout_at(at_most, tokio::time::sleep(delay)).await;
                ended.map_err(|_| Failure::new(Kind::Deadline, "it never ends"))?;
                let now = clock.now();
                AccessToken::new(Secret::new(format!("token-{number}")), now, now + HOUR).unwrap()
            }
            Act::Panic => panic!("a source came to grief"),
        };
        *self.0.last.lock().unwrap() = Some(token.clone());
        Ok(Minted { token, source: "fake".to_owned(), passed_over: Vec::new() })
    }

    fn stamps(&self, _named: Option<&NamedSource>) -> Vec<Option<Stamp>> {
        // One entry more is another identity.
        vec![None; 1 + usize::from(self.0.changed.load(Ordering::Relaxed))]
    }

    fn lingers(&self) -> Duration {
        *self.0.lingers.lock().unwrap()
    }

    fn deciding(&self, whose: &Whose, _registry: Option<&Registry>) -> Option<NamedSource> {
        whose.source.clone()
    }
}

struct Setting {
    cache: Arc<Cache<Fake>>,
    fake: Fake,
}

impl Setting {
    fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        let fake = Fake::default();
        fake.0.acts.lock().unwrap().extend(acts);
        let clock = Clock::following_tokio(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        *fake.0.clock.lock().unwrap() = Some(clock);
        Self { cache: Arc::new(Cache::new(fake.clone(), clock, Arc::default())), fake }
    }

    fn lingering(self, time: Duration) -> Self {
        *self.fake.0.lingers.lock().unwrap() = time;
        self
    }

    async fn ask(&self) -> Result<String, Failure> {
        self.ask_as(None, NINE).await
    }

    async fn ask_as(&self, asker: Option<&str>, patience: Duration) -> Result<String, Failure> {
        let asker = asker.map(|asker| digest(asker, "https://us-python.pkg.dev/p/r/simple/"));
        let outcome = self.cache.token(key(), asker, Instant::now() + patience).await;
        outcome.map(|minted| minted.token.secret.expose().to_owned())
    }

    fn calls(&self) -> usize {
        self.fake.0.calls.lock().unwrap().len()
    }

    fn forced(&self) -> usize {
        self.fake.0.calls.lock().unwrap().iter().filter(|request| request.force).count()
    }
}

fn key() -> Key {
    Key { named: None, access: Access::Read }
}

fn broken(transient: bool) -> Failure {
    Failure { transient, ..Failure::new(Kind::Upstream, "no") }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const NINE: Duration = Duration::from_secs(9);

#[tokio::test(start_paused = true)]
async fn a_thousand_cold_askers_cost_one_upstream_call() {
    let setting = Setting::new([Act::Token(SECOND, HOUR)]);
    let mut askers = JoinSet::new();
    for _ in 0..1000 {
        let cache = Arc::clone(&setting.cache);
        askers.spawn(async move { cache.token(key(), None, Instant::now() + NINE).await.unwrap() });
    }
    while let Some(minted) = askers.join_next().await {
        assert_eq!(minted.unwrap().token.secret.expose(), "token-1");
    }
    assert_eq!(setting.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_is_given_without_a_call() {
    let setting = Setting::new([]);
    setting.ask().await.unwrap();
    pass(29 * MINUTE).await;
    assert_eq!(setting.ask().await.unwrap(), "token-1");
    assert_eq!(setting.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn below_half_life_a_quick_refresh_is_waited_for() {
    let setting = Setting::new([Act::Token(Duration::ZERO, HOUR), Act::Token(SECOND, HOUR)]);
    setting.ask().await.unwrap();
    pass(31 * MINUTE).await;
    assert_eq!(setting.ask().await.unwrap(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn below_half_life_a_slow_refresh_is_not_waited_for_but_lands() {
    let setting = Setting::new([Act::Token(Duration::ZERO, HOUR), Act::Token(5 * SECOND, HOUR)]);
    setting.ask().await.unwrap();
    pass(31 * MINUTE).await;
    let start = Instant::now();
    assert_eq!(setting.ask().await.unwrap(), "token-1");
    assert_eq!(start.elapsed(), PATIENCE);
    pass(5 * SECOND).await;
    assert_eq!(setting.ask().await.unwrap(), "token-2");
    assert_eq!(setting.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn below_five_minutes_the_new_token_is_waited_for() {
    let setting = Setting::new([Act::Token(Duration::ZERO, HOUR), Act::Token(5 * SECOND, HOUR)]);
    setting.ask().await.unwrap();
    pass(56 * MINUTE).await;
    assert_eq!(setting.ask().await.unwrap(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_survives_a_failing_refresh() {
    let setting = Setting::new([
        Act::Token(Duration::ZERO, HOUR),
        Act::Fail(Duration::ZERO, broken(false)),
        Act::Fail(Duration::ZERO, broken(false)),
    ]);
    setting.ask().await.unwrap();
    pass(59 * MINUTE).await;
    assert_eq!(setting.ask().await.unwrap(), "token-1");
    pass(2 * MINUTE).await;
    assert_eq!(setting.ask().await.unwrap_err().message, "no");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_remembered_for_seconds_and_not_for_good() {
    let setting =
        Setting::new([Act::Fail(Duration::ZERO, broken(false)), Act::Fail(Duration::ZERO, broken(true))]);
    for _ in 0..20 {
        assert!(setting.ask().await.is_err());
    }
    assert_eq!(setting.calls(), 1);
    pass(A_WHILE).await;
    assert!(setting.ask().await.is_err());
    assert_eq!(setting.calls(), 2);
    pass(BRIEFLY).await;
    assert_eq!(setting.ask().await.unwrap(), "token-3");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept_but_capped() {
    let patience = Failure { retry_after: Some(Duration::from_secs(30)), ..broken(true) };
    let endless = Failure { retry_after: Some(HOUR), ..broken(true) };
    let setting = Setting::new([Act::Fail(Duration::ZERO, patience), Act::Fail(Duration::ZERO, endless)]);
    assert!(setting.ask().await.is_err());
    pass(29 * SECOND).await;
    assert!(setting.ask().await.is_err());
    assert_eq!(setting.calls(), 1);
    pass(SECOND).await;
    assert!(setting.ask().await.is_err());
    assert_eq!(setting.calls(), 2);
    pass(LEAVE_ALONE).await;
    assert!(setting.ask().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_brings_the_same_expiry_is_not_repeated_for_a_minute() {
    let life = 10 * MINUTE;
    let setting = Setting::new([
        Act::Token(Duration::ZERO, life),
        Act::Same(Duration::ZERO),
        Act::Same(Duration::ZERO),
    ]);
    setting.ask().await.unwrap();
    pass(6 * MINUTE).await;
    for _ in 0..50 {
        assert_eq!(setting.ask().await.unwrap(), "token-1");
    }
    assert_eq!(setting.calls(), 2);
    pass(LEAVE_ALONE).await;
    setting.ask().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn short_tokens_are_used_for_half_of_their_life() {
    let short = Duration::from_secs(120);
    let setting = Setting::new([Act::Token(Duration::ZERO, short), Act::Token(Duration::ZERO, short)]);
    for _ in 0..59 {
        assert_eq!(setting.ask().await.unwrap(), "token-1");
        pass(SECOND).await;
    }
    pass(2 * SECOND).await;
    assert_eq!(setting.ask().await.unwrap(), "token-2");
    assert_eq!(setting.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn asked_again_by_the_same_asker_after_a_minute_mints_once() {
    let setting = Setting::new([]);
    let ask = || setting.ask_as(Some("1:1"), NINE);
    assert_eq!(ask().await.unwrap(), "token-1");
    pass(30 * SECOND).await;
    assert_eq!(ask().await.unwrap(), "token-1", "the token is too young to have been refused");
    pass(31 * SECOND).await;
    assert_eq!(ask().await.unwrap(), "token-2");
    assert_eq!(setting.forced(), 1);
    pass(30 * SECOND).await;
    assert_eq!(ask().await.unwrap(), "token-2");
    assert_eq!(setting.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_asker_or_no_asker_never_forces() {
    let setting = Setting::new([]);
    setting.ask_as(Some("1:1"), NINE).await.unwrap();
    pass(10 * MINUTE).await;
    for asker in [Some("2:2"), None, None] {
        assert_eq!(setting.ask_as(asker, NINE).await.unwrap(), "token-1");
    }
    assert_eq!(setting.forced(), 0);
}

#[tokio::test(start_paused = true)]
async fn at_most_one_forced_mint_a_minute_for_one_identity() {
    let setting = Setting::new([]);
    for asker in ["1:1", "2:2", "3:3"] {
        setting.ask_as(Some(asker), NINE).await.unwrap();
    }
    pass(61 * SECOND).await;
    for asker in ["1:1", "2:2", "3:3"] {
        assert_eq!(setting.ask_as(Some(asker), NINE).await.unwrap(), "token-2");
    }
    assert_eq!((setting.calls(), setting.forced()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_forced_mint_that_fails_gives_what_there_is() {
    let setting = Setting::new([Act::Token(Duration::ZERO, HOUR), Act::Fail(Duration::ZERO, broken(false))]);
    setting.ask_as(Some("1:1"), NINE).await.unwrap();
    pass(61 * SECOND).await;
    assert_eq!(setting.ask_as(Some("1:1"), NINE).await.unwrap(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_was_refused_a_token_costs_one_forced_mint_and_gets_the_next_one() {
    let slow = Act::Token(Duration::from_millis(300), HOUR);
    let setting = Setting::new([Act::Token(Duration::ZERO, HOUR), slow]);
    assert_eq!(setting.ask().await.unwrap(), "token-1");
    let refused = Secret::new("token-1".to_owned()).fingerprint();
    let again = || setting.cache.token_in_place_of(key(), refused, Instant::now() + NINE);
    let (one, other) = tokio::join!(again(), again());
    assert_eq!(one.unwrap().token.secret.expose(), "token-2");
    assert_eq!(other.unwrap().token.secret.expose(), "token-2");
    // Who was refused the old one later needs no call at all.
    assert_eq!(again().await.unwrap().token.secret.expose(), "token-2");
    assert_eq!((setting.calls(), setting.forced()), (2, 1));
    // The new one is refused as well: not again within a minute.
    let refused = Secret::new("token-2".to_owned()).fingerprint();
    let same = setting.cache.token_in_place_of(key(), refused, Instant::now() + NINE).await.unwrap();
    assert_eq!(same.token.secret.expose(), "token-2");
    assert_eq!(setting.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_given_again_where_the_forced_mint_fails() {
    let acts = [Act::Token(Duration::ZERO, HOUR), Act::Fail(Duration::ZERO, broken(false))];
    let setting = Setting::new(acts);
    setting.ask().await.unwrap();
    let refused = Secret::new("token-1".to_owned()).fingerprint();
    assert!(setting.cache.token_in_place_of(key(), refused, Instant::now() + NINE).await.is_err());
    assert_eq!(setting.ask().await.unwrap(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn an_asker_gets_an_answer_by_its_deadline_and_the_flight_goes_on() {
    let setting = Setting::new([Act::Token(5 * SECOND, HOUR)]);
    let start = Instant::now();
    let failure = setting.ask_as(None, SECOND).await.unwrap_err();
    assert_eq!((failure.kind, start.elapsed()), (Kind::Deadline, SECOND));
    assert_eq!(setting.ask().await.unwrap(), "token-1");
    assert_eq!(setting.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_patient_asker_is_not_bound_by_an_impatient_ones_flight() {
    let late = Failure::new(Kind::Deadline, "late");
    let setting = Setting::new([Act::Fail(SECOND, late), Act::Token(SECOND, HOUR)]);
    let impatient = setting.ask_as(None, SECOND);
    let patient = async {
        pass(SECOND / 10).await;
        setting.ask_as(None, NINE).await
    };
    let (impatient, patient) = tokio::join!(impatient, patient);
    assert_eq!(impatient.unwrap_err().kind, Kind::Deadline);
    assert_eq!(patient.unwrap(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_fails_the_ask_and_not_the_next_one() {
    let setting = Setting::new([Act::Panic]);
    assert_eq!(setting.ask().await.unwrap_err().kind, Kind::Local);
    pass(A_WHILE).await;
    assert_eq!(setting.ask().await.unwrap(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_credential_counts_within_a_second() {
    let setting = Setting::new([]);
    assert_eq!(setting.ask().await.unwrap(), "token-1");
    setting.fake.0.changed.store(true, Ordering::Relaxed);
    pass(LOOK_AGAIN).await;
    assert_eq!(setting.ask().await.unwrap(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_replaced_credential_that_is_still_in_flight_is_not_kept() {
    let setting = Setting::new([Act::Token(3 * SECOND, HOUR)]);
    let old = setting.ask_as(None, NINE);
    let new = async {
        pass(2 * SECOND).await;
        setting.fake.0.changed.store(true, Ordering::Relaxed);
        setting.ask().await
    };
    let (old, new) = tokio::join!(old, new);
    assert_eq!((old.unwrap(), new.unwrap()), ("token-1".to_owned(), "token-2".to_owned()));
    assert_eq!(setting.ask().await.unwrap(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_clock_jump_of_an_hour_costs_one_call_and_no_dead_token() {
    let setting = Setting::new([]);
    setting.ask().await.unwrap();
    tokio::time::advance(HOUR).await;
    assert_eq!(setting.ask().await.unwrap(), "token-2");
    assert_eq!(setting.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_an_ask_goes_on_and_is_there_for_the_next_one() {
    let setting = Setting::new([Act::Late(12 * SECOND)]).lingering(2 * MINUTE);
    let start = Instant::now();
    let failure = setting.ask().await.unwrap_err();
    assert_eq!((failure.kind, failure.message.as_str()), (Kind::Deadline, "it is still running"));
    assert!(start.elapsed() <= NINE);
    assert_eq!(setting.ask().await.unwrap(), "token-1");
    assert_eq!(setting.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_never_ends_is_cut_and_told_and_asked_again_later() {
    let setting = Setting::new([Act::Late(HOUR), Act::Late(SECOND)]).lingering(2 * MINUTE);
    let start = Instant::now();
    while setting.ask().await.unwrap_err().message != "it never ends" {
        assert!(start.elapsed() < 3 * MINUTE, "it is not cut");
    }
    assert_eq!((setting.calls(), setting.ask().await.unwrap_err().message.as_str()), (1, "it never ends"));
    pass(A_WHILE).await;
    assert_eq!(setting.ask().await.unwrap(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_asks_next_it_is_cut_with_the_ask() {
    let setting = Setting::new([Act::Late(12 * SECOND)]);
    assert_eq!(setting.ask().await.unwrap_err().message, "it never ends");
}
