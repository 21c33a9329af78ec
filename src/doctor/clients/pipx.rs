//! pipx and build tell their pip to call `keyring`, unless the variable says something else. pip's files do not count.

use super::super::Finding;
use super::Asker;

pub(super) fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let told = asker.environment.text("PIP_KEYRING_PROVIDER").unwrap_or("subprocess");
    let found = [("pipx", "pipx"), ("build", "pyproject-build")];
    let found = found.into_iter().filter(|(_, program)| asker.environment.find_program(program).is_some());
    found
        .map(|(step, _)| match (told, &asker.keyring) {
            ("subprocess", Some(_)) => {
                Finding::fine(step, "tells its pip to call it, where pip is 23.1 or newer")
            }
            ("subprocess", None) => Finding::note(step, "will not find valetkey", "see the line above"),
            _ => {
                let text = "passes PIP_KEYRING_PROVIDER on, which is not subprocess";
                Finding::note(step, text, "set PIP_KEYRING_PROVIDER=subprocess")
            }
        })
        .collect()
}
