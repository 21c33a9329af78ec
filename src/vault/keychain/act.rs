//! What is done to the keychain, by the library for it, and what its errors mean.
//!
//! All of this blocks, perhaps for ever. It runs where it can be ended.

use keyring::Entry;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::StoredSecret;
use super::Answer;

/// What may be asked of the keychain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Act {
    Read,
    Write,
    Delete,
    Probe,
}

/// Why the keychain did not do it, with its own words where they may help. Never a part of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trouble {
    Missing,
    NoKeychain(String),
    Locked(String),
    Broken(String),
    Malformed,
}

/// Does it, and waits as long as it takes.
pub(super) fn perform(act: Act, user: &str, secret: Option<&StoredSecret>) -> Answer {
    let entry = Entry::new(SERVICE, user)?;
    match (act, secret) {
        (Act::Read, _) => {
            let stored = Zeroizing::new(entry.get_secret()?);
            StoredSecret::from_json(&stored).map(Some).ok_or(Trouble::Malformed)
        }
        (Act::Write, Some(secret)) => {
            let json = secret.to_json().ok_or_else(|| Trouble::Broken("it is too large".to_owned()))?;
            keep(&entry, &json)?;
            if *Zeroizing::new(entry.get_secret()?) == *json {
                Ok(None)
            } else {
                Err(Trouble::Broken("it does not hold what was written".to_owned()))
            }
        }
        (Act::Write, None) => Err(Trouble::Broken("nothing was given to be written".to_owned())),
        (Act::Delete, _) => remove(&entry).map(|()| None),
        (Act::Probe, _) => {
            keep(&entry, PROBE.as_bytes())?;
            remove(&entry).map(|()| None)
        }
    }
}

/// Puts a secret in the place of what is there.
fn keep(entry: &Entry, secret: &[u8]) -> Result<(), Trouble> {
    match entry.set_secret(secret) {
        // A second keychain holds one of the same name: one of them is enough.
        Err(keyring::Error::Ambiguous(entries)) => {
            let (first, others) = entries.split_first().ok_or(Trouble::Missing)?;
            first.set_secret(secret)?;
            others.iter().try_for_each(|other| Ok(other.delete_credential()?))
        }
        outcome => Ok(outcome?),
    }
}

/// Removes whatever has this name.
fn remove(entry: &Entry) -> Result<(), Trouble> {
    match entry.delete_credential() {
        Err(keyring::Error::NoEntry) => Ok(()),
        Err(keyring::Error::Ambiguous(entries)) => {
            entries.iter().try_for_each(|entry| Ok(entry.delete_credential()?))
        }
        outcome => Ok(outcome?),
    }
}

impl From<keyring::Error> for Trouble {
    fn from(error: keyring::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&keyring::Error> for Trouble {
    fn from(error: &keyring::Error) -> Self {
        use keyring::Error;
        match error {
            Error::NoEntry => Self::Missing,
            // The library keeps the reason of its first look beside it.
            Error::NoDefaultStore => match Entry::store_status() {
                Ok(()) | Err(Error::NoDefaultStore | Error::Invalid(..)) => {
                    Self::NoKeychain("this system has none that is known".to_owned())
                }
                Err(reason) => Self::from(reason),
            },
            Error::NoStorageAccess(cause) | Error::PlatformFailure(cause) => {
                platform::trouble(error, cause.as_ref())
            }
            Error::BadEncoding(_) | Error::BadDataFormat(..) => Self::Malformed,
            // Its own words would list them.
            Error::Ambiguous(entries) => {
                Self::Broken(format!("it holds {} entries of the same name", entries.len()))
            }
            other => Self::Broken(words(other)),
        }
    }
}

fn words(error: &dyn std::error::Error) -> String {
    error.to_string().chars().take(LONGEST).collect()
}

/// The Secret Service: what went wrong on the bus.
#[cfg(target_os = "linux")]
mod platform {
    use std::error::Error;
    use std::io;

    use secret_service::Error as ServiceError;
    use zbus::fdo::Error as StandardError;

    use super::{Trouble, words};

    /// Which error of the library carries the cause depends on the call it was made in; the cause alone counts.
    pub(super) fn trouble(_: &keyring::Error, cause: &(dyn Error + Send + Sync + 'static)) -> Trouble {
        let Some(error) = cause.downcast_ref::<ServiceError>() else { return Trouble::Broken(words(cause)) };
        match error {
            ServiceError::Locked => Trouble::Locked("it was not asked to open".to_owned()),
            // Dismissed: by a person, or at once where there is no desktop.
            ServiceError::Prompt => Trouble::Locked("nobody gave its password".to_owned()),
            ServiceError::Unavailable => Trouble::NoKeychain("there is no session bus".to_owned()),
            // A new entry goes into the default collection. Where there is none, nothing was ever set up.
            ServiceError::NoResult => Trouble::NoKeychain("it has no default collection".to_owned()),
            ServiceError::Zbus(error) => bus(error),
            ServiceError::ZbusFdo(error) => standard(error),
            other => Trouble::Broken(words(other)),
        }
    }

    fn bus(error: &zbus::Error) -> Trouble {
        match error {
            zbus::Error::MethodError(name, ..) => match name.as_str() {
                "org.freedesktop.DBus.Error.ServiceUnknown"
                | "org.freedesktop.DBus.Error.NameHasNoOwner"
                | "org.freedesktop.DBus.Error.Spawn.ServiceNotFound" => unserved(),
                "org.freedesktop.Secret.Error.IsLocked" => {
                    Trouble::Locked("it was locked again in the middle of it".to_owned())
                }
                _ => Trouble::Broken(words(error)),
            },
            zbus::Error::FDO(error) => standard(error),
            zbus::Error::InputOutput(cause) | zbus::Error::Connection(cause, _) if is_nobody(cause) => {
                Trouble::NoKeychain("there is no session bus".to_owned())
            }
            other => Trouble::Broken(words(other)),
        }
    }

    fn standard(error: &StandardError) -> Trouble {
        match error {
            StandardError::ServiceUnknown(_)
            | StandardError::NameHasNoOwner(_)
            | StandardError::SpawnServiceNotFound(_) => unserved(),
            StandardError::ZBus(error) => bus(error),
            other => Trouble::Broken(words(other)),
        }
    }

    fn unserved() -> Trouble {
        Trouble::NoKeychain("nothing serves org.freedesktop.secrets on the session bus".to_owned())
    }

    /// Whether a socket has nobody behind it.
    fn is_nobody(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    }

    #[cfg(test)]
    mod tests {
        use std::sync::Arc;

        use super::*;

        fn of(error: ServiceError) -> Trouble {
            Trouble::from(keyring::Error::PlatformFailure(Box::new(error)))
        }

        #[test]
        fn only_what_cannot_be_locked_is_no_keychain() {
            let socket = |kind: io::ErrorKind| {
                of(ServiceError::Zbus(zbus::Error::InputOutput(Arc::new(io::Error::from(kind)))))
            };
            let standard = |error| of(ServiceError::Zbus(zbus::Error::FDO(Box::new(error))));
            for none in [
                of(ServiceError::Unavailable),
                of(ServiceError::NoResult),
                socket(io::ErrorKind::NotFound),
                socket(io::ErrorKind::ConnectionRefused),
                standard(StandardError::ServiceUnknown("x".to_owned())),
            ] {
                assert!(matches!(none, Trouble::NoKeychain(_)), "{none:?}");
            }
            for there in [
                of(ServiceError::PromptDisconnected),
                socket(io::ErrorKind::PermissionDenied),
                standard(StandardError::NoReply("x".to_owned())),
                standard(StandardError::AccessDenied("x".to_owned())),
            ] {
                assert!(matches!(there, Trouble::Broken(_)), "{there:?}");
            }
            for locked in [ServiceError::Locked, ServiceError::Prompt] {
                let locked = Trouble::from(keyring::Error::NoStorageAccess(Box::new(locked)));
                assert!(matches!(locked, Trouble::Locked(_)), "{locked:?}");
            }
        }
    }
}

/// Unproven: no test has run it.
#[cfg(not(target_os = "linux"))]
mod platform {
    use super::{Trouble, words};

    pub(super) fn trouble(
        error: &keyring::Error,
        cause: &(dyn std::error::Error + Send + Sync + 'static),
    ) -> Trouble {
        match error {
            keyring::Error::NoStorageAccess(_) => Trouble::Locked(words(cause)),
            _ => Trouble::Broken(words(cause)),
        }
    }
}

/// The name under which a keychain shows our entries.
const SERVICE: &str = "valetkey";
/// The user name and the content of an entry that is no login.
pub(super) const PROBE: &str = "probe";
const LONGEST: usize = 300;
