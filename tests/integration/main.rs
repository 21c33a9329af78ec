//! Real processes against the stand-in: what a user's machine does, and what goes wrong on it.

#[path = "../harness/harness.rs"]
mod harness;
#[path = "../stand-in/stand_in.rs"]
mod stand_in;

mod smoke;
