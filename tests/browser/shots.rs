//! Pictures of every page, for people to look at: `target/browser-shots`. What can be judged without eyes is.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::browser::{Browser, Opened};
use super::harness::Sandbox;
use super::login::{ACCOUNT, Login};
use super::node::Machine;
use super::oidc::{Oidc, Terms};
use super::person::Verdict;

#[test]
fn every_page_fits_a_phone_and_a_desk_by_day_and_by_night() {
    let Some(machine) = Machine::find() else { return };
    let sandbox = Sandbox::new();
    let oidc = Oidc::start(&machine, &sandbox, Terms::default());
    oidc.configure(&sandbox);
    let browser = Browser::start(&machine, &sandbox);

    let login = Login::start(&sandbox, &[]);
    let stray = format!("{}?code=stray&state=stray", login.redirect());
    assert_eq!(browser.open("wrong-state", &stray), Opened::Status(400));
    login.click_through(&browser, "done", ACCOUNT, Verdict::Allow);
    login.end();
    let login = Login::start(&sandbox, &[]);
    login.click_through(&browser, "denied", ACCOUNT, Verdict::Deny);
    login.end();
    let login = Login::start(&sandbox, &[]);
    let scope = super::stand_in::READ_ONLY;
    login.click_through(&browser, "unticked", ACCOUNT, Verdict::AllowBut(scope));
    login.end();

    let place = place();
    for page in ["done", "denied", "unticked", "wrong-state"] {
        let mut backgrounds = Vec::new();
        for scheme in ["light", "dark"] {
            for (width, height) in [(390, 844), (1280, 800)] {
                let path = place.join(format!("{page}-{scheme}-{width}x{height}.png"));
                browser.shot(page, &path, scheme, (width, height));
                assert!(fs::metadata(&path).is_ok_and(|data| data.len() > 2000), "{}", path.display());
                let look = browser.run(page, LOOK, &json!(null));
                assert!(look["wide"].as_u64() <= Some(width.into()), "{page} scrolls sideways: {look}");
                assert!(look["contrast"].as_f64() >= Some(4.5), "{page} in {scheme}: {look}");
                backgrounds.push(look["background"].clone());
            }
        }
        assert_eq!(backgrounds[0], backgrounds[1]);
        assert_ne!(backgrounds[1], backgrounds[2], "{page} looks the same in the dark");
    }
}

fn place() -> PathBuf {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/browser-shots");
    fs::create_dir_all(&place).expect("a directory");
    place
}

/// How wide the page is, and the least contrast of any text with what is behind it (WCAG 2.1, 1.4.3).
const LOOK: &str = "() => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((part) => {
            const share = part / 255;
            return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
        }
        return getComputedStyle(document.documentElement).colorScheme.includes('dark') &&
            matchMedia('(prefers-color-scheme: dark)').matches
            ? 'rgb(18, 18, 18)'
            : 'rgb(255, 255, 255)';
    };
    let contrast = Infinity;
    for (const element of document.querySelectorAll('body *')) {
        if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
        contrast = Math.min(contrast, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
    }
    return {
        wide: document.documentElement.scrollWidth,
        background: behind(document.body),
        contrast: Math.round(contrast * 100) / 100,
    };
}";
