//! The Python index: Simple API pages (PEP 503, 691) whose links come back through us.
//!
//! `/index/HOST/PROJECT/REPOSITORY/simple/…` is one repository, `/simple/NAME/` is several of them merged without
//! dependency confusion. Nothing in here opens a connection: pages are fetched by whoever implements
//! [`merge::Fetch`] and are rewritten as they pass, chunk by chunk.
//!
//! A link never carries a credential, and whatever it names is checked again when it is asked for: a page can
//! mislead a client into a refusal, never into a repository that its listener does not grant.

pub mod html;
pub mod json;
pub mod links;
pub mod merge;
pub mod name;
pub mod negotiate;
pub mod repository;
pub mod rewrite;

pub use links::{Admits, Links, Mount};
pub use name::{Pattern, ProjectName};
pub use negotiate::{Accept, Format};
pub use repository::{Repository, Target};
pub use rewrite::{RewriteFault, Rewriter};
