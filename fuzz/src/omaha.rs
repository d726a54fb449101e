//! Omaha requests and answers: what is read, written again, reads the same.

use manifests::omaha::{
    Acknowledgement, AppAnswer, Error, MAX_VALUE_BYTES, Request, Response, STATUS_OK, Update, UpdateAnswer, Verdict,
};

/// The application asked for, unless the answer is for another one.
const APP_ID: &str = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}";

/// A request of a host, as the release server reads it.
pub fn request(data: &[u8]) {
    let Ok(request) = Request::read(data) else { return };
    for app in &request.apps {
        assert!(app.machine().is_none_or(|id| !id.is_empty()));
    }
    let written = request.write();
    match Request::read(written.as_bytes()) {
        Ok(again) => assert_eq!(again, request, "read again from {written}"),
        Err(error) => assert!(is_longer_spelling(&error), "{error} in {written}"),
    }
}

/// An answer of a server, as the host reads it.
pub fn response(data: &[u8]) {
    let Some((app_id, answer)) = read_for_any(data) else { return };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return assert!((30..=34).contains(&error.code().to_wire()), "{error}"),
    };
    let status = match &answer.verdict {
        Verdict::ServerError(error) => error.app_status.clone().unwrap_or(STATUS_OK.to_owned()),
        Verdict::Update(update) => {
            check_urls(update);
            STATUS_OK.to_owned()
        }
        Verdict::NoUpdate { .. } => STATUS_OK.to_owned(),
    };
    let app = AppAnswer { app_id: app_id.clone(), status, ping: false, update_check: Some(answer.clone()), events: 0 };
    let written = Response { server: String::new(), apps: vec![app] }.write();
    match UpdateAnswer::read(written.as_bytes(), &app_id) {
        Ok(again) => assert_eq!(again, without_lost(answer), "read again from {written}"),
        Err(error) => assert!(is_longer_spelling(&error), "{error} in {written}"),
    }
}

/// Reads the answer for our application or, if it has none, for the first application it does answer.
fn read_for_any(data: &[u8]) -> Option<(String, Result<UpdateAnswer, Error>)> {
    let acknowledged = Acknowledgement::read(data, APP_ID);
    let answer = UpdateAnswer::read(data, APP_ID);
    let Err(Error::NoSuchApp { got, .. }) = &answer else { return Some((APP_ID.to_owned(), answer)) };
    assert!(matches!(acknowledged, Err(Error::NoSuchApp { .. })), "two readers disagree about whose answer it is");
    let other = got.first()?.clone();
    let answer = UpdateAnswer::read(data, &other);
    // An id too long to be shown whole is not found by what is shown of it.
    (!matches!(answer, Err(Error::NoSuchApp { .. }))).then_some((other, answer))
}

/// A refused app without an `updatecheck` has no place for a poll interval.
fn without_lost(answer: UpdateAnswer) -> UpdateAnswer {
    match &answer.verdict {
        Verdict::ServerError(error) if error.status.is_none() => UpdateAnswer { poll_interval_s: None, ..answer },
        _ => answer,
    }
}

/// A value near its cap may be spelled longer when it is written (`'` becomes `&apos;`).
fn is_longer_spelling(error: &Error) -> bool {
    matches!(error, Error::OverLimit { limit, .. } if *limit == MAX_VALUE_BYTES) || matches!(error, Error::TooLarge { .. })
}

/// A package is fetched from where the codebase says, and nothing that is shown has a password in it.
fn check_urls(update: &Update) {
    for codebase in &update.codebases {
        for package in &update.packages {
            let url = codebase.url_of(&package.name);
            let name = url.strip_prefix(codebase.as_str()).expect("a package stands below its codebase");
            assert!(!name.is_empty() && !name.contains(['/', '?', '#', '\\']), "{url}");
            assert!(!matches!(name, "." | ".."), "{url}");
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
        }
        let shown = codebase.redacted();
        let authority = shown.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        let userinfo = authority.rsplit_once('@').map(|(userinfo, _)| userinfo);
        assert!(userinfo.is_none_or(|userinfo| userinfo == "***"), "{shown}");
        assert!(format!("{codebase:?}").contains(&shown));
    }
    let running = update.version.clone();
    assert!(update.delta_from(&running).is_none_or(|package| package.name.as_str().ends_with(".payload")));
    assert!(update.postinstall.digest().is_none_or(|digest| digest.to_base64() == update.postinstall.sha256.trim()));
}
