//! Numbers of events and errors against the tables of the servers in the field.

use manifests::omaha::{ActionCode, ErrorCode, Event, EventResult, EventType, Flags};

#[test]
fn every_error_code_of_the_table_has_its_name_and_flags() {
    let table = include_str!("../testdata/omaha/error_codes.tsv");
    let mut rows = 0;
    for row in table.lines().skip(1) {
        let mut cells = row.split('\t');
        let (number, name, flags) = (cells.next().unwrap(), cells.next().unwrap(), cells.next().unwrap());
        let code = ErrorCode::parse(number).unwrap();
        assert_eq!(code.name(), name, "{row}");
        assert_eq!(code.flags().names().collect::<Vec<_>>().join(","), flags, "{row}");
        assert_eq!(code.to_string(), number, "{row}");
        rows += 1;
    }
    assert_eq!(rows, 34);
}

#[test]
fn error_codes_are_signed_32_bit_and_may_come_unsigned() {
    assert_eq!(ErrorCode::parse("-2147483639"), ErrorCode::parse("2147483657"));
    let code = ErrorCode::parse("-2147483639").unwrap();
    assert_eq!((code.action(), code.flags()), (ActionCode::DownloadTransferError, Flags::DEV_MODE));
    assert_eq!(code.to_wire(), -2_147_483_639);
    for text in ["", "x", "4294967296", "-2147483649", "1.5", "99999999999999999999"] {
        assert_eq!(ErrorCode::parse(text), None, "{text:?}");
    }
}

#[test]
fn descriptions_are_fit_for_people() {
    let other_server = |action| ErrorCode::from(action).with(Flags::TEST_OMAHA_URL);
    for (code, text) in [
        (ErrorCode::from(ActionCode::RollbackError), "RollbackError (44)"),
        (other_server(ActionCode::OmahaResponseInvalid), "OmahaResponseInvalid (34; TestOmahaUrl)"),
        (other_server(ActionCode::DownloadWriteError).with(Flags::RESUMED), "DownloadWriteError (14; TestOmahaUrl, Resumed)"),
        (ErrorCode::http(404), "Http 404 (2404)"),
        (ErrorCode::http(503).with(Flags::TEST_OMAHA_URL), "Http 503 (2503; TestOmahaUrl)"),
        (ErrorCode::http(7), "Http 999 (2999)"),
        (ErrorCode::from_wire(77), "unknown code 77"),
    ] {
        assert_eq!(code.describe(), text);
    }
    assert_eq!(ErrorCode::http(404).http_status(), Some(404));
    assert_eq!(ErrorCode::from_wire(44).http_status(), None);
}

#[test]
fn numbers_are_those_of_the_protocol_and_unknown_ones_are_kept() {
    for (kind, number) in [
        (EventType::UpdateComplete, 3),
        (EventType::UpdateDownloadStarted, 13),
        (EventType::UpdateDownloadFinished, 14),
        (EventType::RebootedAfterUpdate, 54),
        (EventType::Installed, 800),
        (EventType::Other(7777), 7777),
    ] {
        assert_eq!((kind.number(), EventType::from_number(number)), (number, kind));
    }
    for (result, number) in [
        (EventResult::Error, 0),
        (EventResult::Success, 1),
        (EventResult::SuccessReboot, 2),
        (EventResult::UpdateDeferred, 9),
        (EventResult::Other(11), 11),
    ] {
        assert_eq!((result.number(), EventResult::from_number(number)), (number, result));
    }
}

#[test]
fn every_named_number_comes_back_and_none_is_used_twice() {
    fn assert_table<T: Copy + PartialEq + std::fmt::Debug>(all: &[T], number: fn(T) -> u32, from: fn(u32) -> T) {
        assert!(all.windows(2).all(|pair| number(pair[0]) < number(pair[1])), "rising numbers");
        assert!(all.iter().all(|&entry| from(number(entry)) == entry));
    }
    assert_table(EventType::NAMED, EventType::number, EventType::from_number);
    assert_table(EventResult::NAMED, EventResult::number, EventResult::from_number);
    assert_table(ActionCode::NAMED, ActionCode::number, ActionCode::from_number);
    // update_engine's table: 0 to 44 without a gap, and 100.
    let numbers: Vec<u32> = ActionCode::NAMED.iter().map(|action| action.number()).collect();
    assert_eq!(numbers, (0..=44).chain([100]).collect::<Vec<_>>());
    assert!(ActionCode::NAMED.iter().all(|action| action.meaning().is_some()));
}

#[test]
fn a_failure_is_update_engines_failure_event() {
    let event = Event::failure(ActionCode::PostinstallRunnerError.into());
    assert_eq!((event.kind, event.result), (EventType::UpdateComplete, EventResult::Error));
    assert_eq!(event.error_code.map(ErrorCode::to_wire), Some(5));
}
