//! What a listener answers with, one file a form.

pub(super) mod control;
