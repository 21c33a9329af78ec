//! A real Chromium, as a person uses it: tabs, forms, buttons, the way back.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::harness::Sandbox;
use super::node::{Machine, Node};

/// A browser with a profile of its own. Ends with the value.
pub(crate) struct Browser {
    node: Node,
    profile: PathBuf,
}

/// What a tab shows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Page {
    pub(crate) url: String,
    pub(crate) title: String,
    pub(crate) text: String,
    pub(crate) source: String,
    pub(crate) referrer: String,
    pub(crate) name: String,
}

/// What became of an address.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Opened {
    Status(u64),
    /// Nobody answered.
    Failed(String),
}

impl Browser {
    pub(crate) fn start(machine: &Machine, sandbox: &Sandbox) -> Self {
        Self::resolving(machine, sandbox, None)
    }

    /// With names that lead to loopback, as the DNS of an attacker says: `MAP attacker.test 127.0.0.1`.
    pub(crate) fn resolving(machine: &Machine, sandbox: &Sandbox, rules: Option<&str>) -> Self {
        let place = sandbox.path("browser");
        let profile = place.join("profile");
        let mut first = json!({"chromium": machine.chromium, "profile": profile});
        if let Some(rules) = rules {
            first["resolve"] = json!(rules);
        }
        Self { node: Node::start(machine, "browser.mjs", &place, &first), profile }
    }

    #[track_caller]
    pub(crate) fn open(&self, tab: &str, url: &str) -> Opened {
        let answer = self.node.ask("open", json!({"tab": tab, "url": url}));
        match (answer["status"].as_u64(), answer["failed"].as_str()) {
            (Some(status), _) => Opened::Status(status),
            (None, reason) => Opened::Failed(reason.unwrap_or_default().to_owned()),
        }
    }

    #[track_caller]
    pub(crate) fn fill(&self, tab: &str, selector: &str, text: &str) {
        self.node.ask("fill", json!({"tab": tab, "selector": selector, "text": text}));
    }

    #[track_caller]
    pub(crate) fn click(&self, tab: &str, selector: &str) {
        self.node.ask("click", json!({"tab": tab, "selector": selector}));
    }

    #[track_caller]
    pub(crate) fn tick(&self, tab: &str, selector: &str, on: bool) {
        self.node.ask("tick", json!({"tab": tab, "selector": selector, "on": on}));
    }

    /// Waits until the address contains this, and gives what the tab then shows.
    #[track_caller]
    pub(crate) fn wait_for(&self, tab: &str, url: &str) -> Page {
        page(self.node.ask("wait", json!({"tab": tab, "url": url})))
    }

    /// Which of these selectors comes to be visible first.
    #[track_caller]
    pub(crate) fn wait_any(&self, tab: &str, selectors: &[&str]) -> String {
        let answer = self.node.ask("wait_any", json!({"tab": tab, "selectors": selectors}));
        answer.as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn read(&self, tab: &str) -> Page {
        page(self.node.ask("read", json!({"tab": tab})))
    }

    /// Calls a function of JavaScript in the page.
    #[track_caller]
    pub(crate) fn run(&self, tab: &str, script: &str, argument: &Value) -> Value {
        self.node.ask("run", json!({"tab": tab, "script": script, "argument": argument}))
    }

    #[track_caller]
    pub(crate) fn back(&self, tab: &str) -> Page {
        page(self.node.ask("back", json!({"tab": tab})))
    }

    /// All that the button could bring back, as text.
    #[track_caller]
    pub(crate) fn history(&self, tab: &str) -> String {
        self.node.ask("history", json!({"tab": tab})).to_string()
    }

    /// From now on requests of this tab to addresses that begin so find nobody, as on another machine.
    #[track_caller]
    pub(crate) fn hold(&self, tab: &str, prefix: &str) {
        self.node.ask("hold", json!({"tab": tab, "prefix": prefix}));
    }

    /// The first address that was held.
    #[track_caller]
    pub(crate) fn held(&self, tab: &str) -> String {
        self.node.ask("held", json!({"tab": tab})).as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn shot(&self, tab: &str, path: &Path, scheme: &str, (width, height): (u32, u32)) {
        let details = json!({"tab": tab, "path": path, "scheme": scheme, "width": width, "height": height});
        self.node.ask("shot", details);
    }

    /// Every request of every tab, with the headers as sent: `method`, `url`, `headers`, `status`, `from`.
    #[track_caller]
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.node.ask("requests", json!({})).as_array().cloned().unwrap_or_default()
    }

    /// Ends it. What it wrote to disk stays there with the sandbox.
    pub(crate) fn quit(mut self) -> PathBuf {
        self.node.stop();
        self.profile.clone()
    }
}

#[track_caller]
fn page(value: Value) -> Page {
    serde_json::from_value(value).expect("a page")
}
