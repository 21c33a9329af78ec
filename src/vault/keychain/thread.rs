//! A thread that asks the keychain. Unproven: no test has run it.
//!
//! The system asks the user on the first look of each program that it does not know, so it is this program that
//! has to ask. A thread that is given up stays until the system answers it.

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::super::{StoredSecret, Vault, VaultFault};
use super::act::{Act, perform};
use super::{Answer, Keychain};

pub(super) async fn ask(
    _: &Keychain,
    act: Act,
    user: &str,
    secret: Option<&StoredSecret>,
    until: Instant,
) -> Result<Answer, VaultFault> {
    let start = Instant::now();
    let (tell, told) = oneshot::channel();
    let (user, secret) = (user.to_owned(), secret.cloned());
    std::thread::Builder::new()
        .name("keychain".to_owned())
        .spawn(move || tell.send(perform(act, &user, secret.as_ref())))
        .map_err(|error| VaultFault::Broken { problem: error.to_string() })?;
    match timeout_at(until, told).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(VaultFault::Broken { problem: "the library for it panicked".to_owned() }),
        Err(_) => Err(VaultFault::Unanswered { vault: Vault::Keychain, waited: start.elapsed() }),
    }
}
