//! Where a Google credential comes from: one file a source, each a function from "which access, until when" to a
//! token. No source caches; the broker does.

pub mod accounts;
pub mod artifact_registry;
pub mod credential_file;
pub mod endpoints;
pub mod gcloud;
pub mod metadata;
pub mod oauth;
pub mod service_account;
pub mod source;
pub mod stored_login;
pub mod user;
