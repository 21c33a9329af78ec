//! Opens the user's browser, where there is a desktop to open it on.

use std::time::Duration;

use webbrowser::{Browser, BrowserOptions};

use crate::blocking;
use crate::environment::Environment;
use crate::sys;

/// Asks the desktop to open an address. Whether a person then sees it, nobody can tell.
///
/// # Errors
/// Why it was not asked, in a few words.
pub async fn open(environment: &Environment, url: &str) -> Result<(), String> {
    let desktop =
        cfg!(not(target_os = "linux")) || DESKTOP.iter().any(|name| environment.get(name).is_some());
    if !desktop {
        // Without one, a browser in text mode would take the terminal.
        return Err("there is no desktop here".to_owned());
    }
    let url = url.to_owned();
    let open = blocking::run(move || {
        let open = || webbrowser::open_browser_with_options(Browser::Default, &url, &BrowserOptions::new());
        // A browser that is started here goes on without us, and saves files.
        sys::with_own_umask(open)
    });
    match tokio::time::timeout(PATIENCE, open).await {
        Ok(Ok(Ok(()))) | Err(_) => Ok(()),
        _ => Err("no browser could be started".to_owned()),
    }
}

/// What tells that there is a desktop, or names a browser.
const DESKTOP: [&str; 4] = ["BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"];
/// A browser that is started for the first time may stay in the foreground.
const PATIENCE: Duration = Duration::from_secs(3);
