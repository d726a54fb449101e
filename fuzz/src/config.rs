//! The host's configuration: what was read, shown, reads the same; what is wrong has a place and words.

use update_engine::config::{HttpUrl, Source, parse};

/// One to four files, with a zero byte between them.
pub fn toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let sources: Vec<Source> =
        text.split('\0').take(4).enumerate().map(|(number, text)| Source::new(format!("{number}.toml"), text)).collect();
    match parse(&sources) {
        Ok(settings) => {
            let shown = settings.to_toml().expect("settings can be shown");
            // A password that is not shown cannot be read back.
            let hides = shown.contains("***");
            match parse(&[Source::new("shown.toml", shown.clone())]) {
                Ok(again) => assert!(hides || again == settings, "shown as another configuration:\n{shown}"),
                Err(error) => assert!(hides, "{error}\nin what was shown:\n{shown}"),
            }
        }
        Err(error) => {
            assert!(!error.problems().is_empty());
            for problem in error.problems() {
                assert!(!problem.words.is_empty() && !problem.file.is_empty(), "{problem:?}");
                assert!(problem.place.is_none_or(|(line, column)| line > 0 && column > 0), "{problem:?}");
            }
        }
    }
    if let Ok(url) = HttpUrl::parse(text) {
        check_url(&url);
    }
}

/// Nothing that is shown has a password in it.
fn check_url(url: &HttpUrl) {
    let shown = format!("{url} {url:?}");
    let Some(password) = url.expose().password().filter(|password| password.len() >= 12) else { return };
    let without = url.expose().as_str().replacen(password, "", 1);
    assert!(without.contains(password) || !shown.contains(password), "{shown}");
}
