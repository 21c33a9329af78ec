//! A user's credential as `gcloud auth application-default login` writes it: a refresh token and the client that
//! it was given to.
//!
//! The refresh request carries no scope: Google answers `invalid_scope` for one that was not granted word for
//! word, and such a token is as wide as its login whatever is asked.

use tokio::time::Instant;

use super::credential_file::AuthorizedUser;
use super::oauth::{Exchange, Granted};
use super::source::{Request, SourceFault, World};
use crate::secret::AccessToken;

/// Refreshes.
///
/// # Errors
/// When Google refuses.
pub async fn mint(
    world: &World,
    user: &AuthorizedUser,
    request: Request,
) -> Result<AccessToken, SourceFault> {
    let token = refresh(world, user, request.until, Some(&request)).await?.token;
    let identity = user.account.clone().or_else(|| token.identity.clone());
    Ok(token.with_identity(identity))
}

/// Refreshes, and keeps what else the answer says.
///
/// # Errors
/// When Google refuses.
pub async fn refresh(
    world: &World,
    user: &AuthorizedUser,
    until: Instant,
    asked: Option<&Request>,
) -> Result<Granted, SourceFault> {
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", user.client_id.as_str()),
        ("client_secret", user.client_secret.expose()),
        ("refresh_token", user.refresh_token.expose()),
    ];
    let exchange = Exchange {
        url: world.endpoints.token(),
        form: &form,
        until,
        asked,
        what: "the application default credentials",
        remedy: REMEDY,
        repeats: true,
    };
    exchange.send(world).await
}

const REMEDY: &str = "sign in again with `gcloud auth application-default login`";
