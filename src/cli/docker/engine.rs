//! What this machine's builder knows: whether it takes the program from a directory, or else which one it has loaded.
//!
//! Both are asked of its client, at once and for a few seconds: what that does not say in time is not known.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::time::Instant;

use crate::client::Client;
use crate::client::fallback;
use crate::image::{IMAGE, Program, layer_digest};
use crate::process::run;

/// How the program gets into a build.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As a build context.
    Context,
    /// As an image, which is the very program that runs here.
    Loaded,
    /// As an image, which is that of another valetkey: of this version, where it says so.
    Outdated(Option<String>),
    /// As an image, of which nothing is known.
    Unknown,
}

/// Asks the client that is on PATH.
pub(super) fn way(client: &Client, program: &Program) -> Way {
    let Some(docker) = client.environment.find_program("docker") else { return Way::Unknown };
    let Ok(runtime) = fallback::runtime() else { return Way::Unknown };
    let ask = |arguments: &'static [&'static str]| {
        let mut command = Command::new(&docker);
        command.args(arguments).stderr(Stdio::null());
        async move { run(&mut command, &[], Instant::now() + PATIENCE).await.ok() }
    };
    let (help, image) = runtime.block_on(async { tokio::join!(ask(&["build", "--help"]), ask(&INSPECT)) });
    runtime.shutdown_background();
    if help.is_some_and(|help| String::from_utf8_lossy(&help.stdout).contains("--build-context")) {
        return Way::Context;
    }
    let digest = layer_digest(program).unwrap_or_default();
    image.map_or(Way::Unknown, |image| loaded(image.status, &image.stdout, &digest))
}

/// What the engine says of the image.
fn loaded(status: ExitStatus, text: &[u8], digest: &str) -> Way {
    let Ok(found) = serde_json::from_slice::<Found>(text) else { return Way::Unknown };
    if !status.success() {
        return Way::Unknown;
    }
    if found.layers.iter().any(|layer| layer == digest) {
        return Way::Loaded;
    }
    let is_version = |text: &String| text.len() < 40 && text.chars().all(|c| c.is_ascii_graphic());
    Way::Outdated(found.labels.and_then(|labels| labels.version).filter(is_version))
}

#[derive(Deserialize)]
struct Found {
    layers: Vec<String>,
    labels: Option<Labels>,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(rename = "org.opencontainers.image.version")]
    version: Option<String>,
}

const INSPECT: [&str; 5] = [
    "image",
    "inspect",
    "--format",
    r#"{"layers":{{json .RootFS.Layers}},"labels":{{json .Config.Labels}}}"#,
    IMAGE,
];
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn an_image_is_this_program_or_another_one_s() {
        let said =
            |code: i32, text: &str| loaded(ExitStatus::from_raw(code << 8), text.as_bytes(), "sha256:00");
        let label = r#"{"org.opencontainers.image.version":"0.0.9","x":"y"}"#;
        let text = |layer: &str, labels: &str| format!(r#"{{"layers":["{layer}"],"labels":{labels}}}"#);
        assert_eq!(said(0, &text("sha256:00", label)), Way::Loaded);
        assert_eq!(said(0, &text("sha256:11", label)), Way::Outdated(Some("0.0.9".to_owned())));
        assert_eq!(said(0, &text("sha256:11", "null")), Way::Outdated(None));
        assert_eq!(said(0, &text("sha256:11", &label.replace("0.0.9", "\\u001b[31m"))), Way::Outdated(None));
        for (code, text) in [(1, ""), (0, ""), (0, "[]"), (1, &text("sha256:00", label))] {
            assert_eq!(said(code, text), Way::Unknown, "{text}");
        }
    }
}
