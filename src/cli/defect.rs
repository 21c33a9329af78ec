//! What is said where valetkey itself is wrong: one sentence, where, and no trace. What a panic says may hold anything, a
//! secret too, so it is not repeated.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::path::Path;

use super::terminal;
use crate::blocking::NO_THREAD;

/// Has every panic said so, in whichever thread.
pub(super) fn tell_of_panics() {
    set_hook(Box::new(|info| {
        let sentence = sentence(info);
        // A daemon has a log, and nobody who reads its standard error.
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!("{sentence}");
        } else {
            terminal::mutter(&sentence);
        }
    }));
}

/// The outcome of work, or nothing where it panicked, which has been said.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Nothing that it has left half done is used after that.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn sentence(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    let text = owned.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
    // Libraries that need a thread and have none know no other way to say it.
    if text.contains("spawn") && text.contains("thread") {
        return format!("no thread can be had; {NO_THREAD}");
    }
    let place = info.location().map(|place| {
        // Without the directories of the machine that built it.
        let file: Vec<_> = Path::new(place.file()).iter().rev().take(2).collect();
        let file: std::path::PathBuf = file.into_iter().rev().collect();
        format!(" ({}:{})", file.display(), place.line())
    });
    format!("this is a defect of valetkey{}: please report it", place.unwrap_or_default())
}
