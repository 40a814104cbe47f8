//! One thing is wrong, and exactly the test of that thing fails.

use crate::echo::{Echo, Kind, Quirk};
use crate::{RINGWIRE, all_passed_but, detail, names, quick, run, text};
use ringwire::load::probe::{Mode, Options, Outcome, Report, UnreachableKind};
use std::time::Duration;

/// Probes a server with this quirk; all of its messages are taken for an echo.
fn probed(quirk: Quirk) -> Report {
    probed_with(quirk, |_| {})
}

fn probed_with(quirk: Quirk, change: impl FnOnce(&mut Options)) -> Report {
    let server = Echo::start(quirk);
    let mut options = quick(&server.url());
    options.mode = Some(Mode::Echo);
    change(&mut options);
    run(&options)
}

/// Exactly this test fails, and says this.
#[track_caller]
fn fails(report: &Report, name: &str, expected: &str) {
    let text = text(report);
    assert_eq!(names(report, Outcome::Failed), [name], "{text}");
    assert!(detail(report, name).contains(expected), "{text}");
    assert!(!report.passed());
}

/// Skipped where everything applies that can be without TLS and without ringwire's protocol.
fn plain_echo() -> Vec<&'static str> {
    let mut skipped = vec!["tls", "certificate", "large-max"];
    skipped.extend(RINGWIRE);
    skipped
}

#[test]
fn a_server_without_fault_passes() {
    for quirk in [
        Quirk::None,
        // Closing without a close frame is allowed.
        Quirk::RefusesSilently,
        Quirk::Greets(2),
    ] {
        let server = Echo::start(quirk);
        let report = run(&quick(&server.url()));
        all_passed_but(&report, Mode::Echo, &plain_echo());
        assert_eq!(report.mode_reason, "a message came back");
        assert_eq!(report.address, Some(server.address.to_string()));
    }
}

/// Larger than what fits between the two ends, so that who only writes would wait forever.
#[test]
fn an_echo_that_begins_before_the_message_ends_is_one() {
    let report = probed_with(Quirk::Streams, |options| {
        options.size_max_bytes = 32 << 20;
        options.only = vec!["large-max".into()];
        options.timeout = Duration::from_secs(30);
    });
    assert_eq!(
        names(&report, Outcome::Passed),
        ["large-max"],
        "{}",
        text(&report)
    );
}

#[test]
fn a_wrong_handshake_ends_everything() {
    for (quirk, expected) in [
        (Quirk::WrongAcceptKey, "Sec-WebSocket-Accept: "),
        (
            Quirk::UnaskedExtension,
            "permessage-deflate names an extension",
        ),
        (Quirk::UnaskedSubprotocol, "Sec-WebSocket-Protocol: chat"),
        (Quirk::Status(403), "403 No instead of 101"),
        (Quirk::ClosesAtOnce, "closed without an answer"),
    ] {
        let report = probed(quirk);
        fails(&report, "upgrade", expected);
        assert_eq!(names(&report, Outcome::Passed), ["dns", "tcp"]);
        let error = report.error.expect("no connection");
        assert_eq!(error.kind, UnreachableKind::Upgrade);
        assert!(!error.advice.is_empty());
    }
}

#[test]
fn a_bad_handshake_that_is_accepted_is_found() {
    let report = probed(Quirk::AcceptsBadHandshake);
    fails(&report, "bad-handshake", "accepted it (101)");
}

#[test]
fn messages_that_do_not_come_back_as_they_were_are_found() {
    for (quirk, name, expected) in [
        (
            Quirk::DropsMessage(500),
            "rapid",
            "message 499 is missing: 500 came",
        ),
        (
            Quirk::SwapsMessages(700),
            "rapid",
            "message 699 is missing: 700 came",
        ),
        (Quirk::ChangesByte(Kind::Text), "text", "byte 0 of 17"),
        (Quirk::ChangesByte(Kind::Utf8), "utf8", "byte 0 of"),
        (
            Quirk::ChangesByte(Kind::Binary),
            "binary",
            "0x01 instead of 0x00",
        ),
        (Quirk::RewritesJson, "json", "instead of"),
        (
            Quirk::DropsEmpty,
            "empty",
            "empty text: nothing came within 3s",
        ),
        (
            Quirk::Cuts(100_000),
            "large-1m",
            "100000 bytes came back instead of 1048576, the first 100000 of them right",
        ),
        (
            Quirk::NoPongBetweenFragments,
            "fragmented",
            "the message came back, but no pong",
        ),
    ] {
        fails(&probed(quirk), name, expected);
    }
}

#[test]
fn control_frames_that_are_answered_wrongly_are_found() {
    for (quirk, name, expected) in [
        (
            Quirk::WrongPong,
            "ping",
            "the pong's payload is \"?robe!\" instead of \"probe\"",
        ),
        (Quirk::ClosesAtPong, "pong", "the server closed with 1002"),
        (
            Quirk::NeverAnswersClose,
            "close",
            "no close frame came within 3s",
        ),
        (
            Quirk::ClosesWith(1001),
            "close",
            "the server closed with 1001 instead of 1000",
        ),
        // Not a code that may be sent at all.
        (
            Quirk::ClosesWith(1006),
            "close",
            "broke the protocol: close code 1006 must not be sent",
        ),
    ] {
        fails(&probed(quirk), name, expected);
    }
}

#[test]
fn a_tcp_connection_that_stays_open_is_found() {
    let report = probed_with(Quirk::KeepsTcpOpen, |options| {
        options.only = vec!["close".into(), "unmasked".into(), "text".into()];
    });
    let failed = names(&report, Outcome::Failed);
    assert_eq!(failed, ["close", "unmasked"], "{}", text(&report));
    for name in failed {
        assert!(detail(&report, name).contains("the TCP connection is still open"));
    }
}

#[test]
fn frames_that_should_have_been_refused_are_found() {
    for (quirk, name, expected) in [
        (Quirk::TakesUnmasked, "unmasked", "sent back \"unmasked\""),
        (
            Quirk::TakesReservedBits,
            "reserved-bits",
            "sent back \"reserved\"",
        ),
        (
            Quirk::TakesReservedOpcode,
            "reserved-opcode",
            "sent back \"opcode\"",
        ),
        (
            Quirk::TakesInvalidUtf8,
            "invalid-utf8",
            "the text is not valid UTF-8",
        ),
        (
            Quirk::TakesFragmentedPing,
            "fragmented-ping",
            "answered with a pong",
        ),
        (
            Quirk::TakesContinuation,
            "continuation",
            "sent back \"more\"",
        ),
    ] {
        fails(&probed(quirk), name, expected);
    }
}

#[test]
fn a_wrong_close_code_is_found() {
    let report = probed(Quirk::RefusesWith(1011));
    let violations: Vec<&str> = report
        .tests
        .iter()
        .filter(|test| test.group == "violations")
        .map(|test| test.name)
        .collect();
    assert_eq!(violations.len(), 6);
    assert_eq!(
        names(&report, Outcome::Failed),
        violations,
        "{}",
        text(&report)
    );
    for name in violations {
        assert!(detail(&report, name).contains("closed with 1011 instead of 100"));
    }
}

#[test]
fn what_fails_only_over_time_is_found() {
    fails(&probed(Quirk::Tires(5)), "latency", "after 5 answers, ");
    let report = probed_with(Quirk::ClosesIdle(2_000), |options| {
        options.idle = Duration::from_secs(20);
    });
    fails(&report, "idle", "the server closed with 1001");
}

#[test]
fn servers_that_do_not_last_are_found() {
    let report = probed_with(Quirk::Full(3), |options| {
        options.connections = 4;
        options.only = vec!["text".into(), "concurrent".into()];
    });
    fails(&report, "concurrent", "of 4 opened, ");
    let report = probed_with(Quirk::DiesOfReset, |options| {
        options.only = vec!["text".into(), "reconnect".into(), "reset".into()];
    });
    fails(&report, "reset", "the connection after it: ");
    // Two connections come before: the first one, and the one that asks what the server is.
    let report = probed_with(Quirk::Ends(2 + 7), |options| {
        options.only = vec!["reconnect".into()];
    });
    fails(&report, "reconnect", "connection 8 of 20: ");
}

#[test]
fn a_server_that_does_not_echo_is_not_tested_for_it() {
    let server = Echo::start(Quirk::Mute);
    let mut options = quick(&server.url());
    options.timeout = Duration::from_secs(1);
    let report = run(&options);
    let mut skipped = vec!["tls", "certificate"];
    let messages = report.tests.iter().filter(|test| test.group == "messages");
    skipped.extend(messages.map(|test| test.name));
    skipped.extend(RINGWIRE);
    all_passed_but(&report, Mode::Connect, &skipped);
    assert!(detail(&report, "text").contains("the server does not echo here"));
    assert!(detail(&report, "pong").contains("the ping after it"));
    assert!(report.mode_reason.contains("nothing came back within 1s"));

    // Who insists gets failures.
    options.mode = Some(Mode::Echo);
    options.only = vec!["text".into()];
    fails(&run(&options), "text", "nothing came within 1s");

    // And a run in which nothing applied is no success.
    options.mode = Some(Mode::Connect);
    let report = run(&options);
    assert_eq!(names(&report, Outcome::Skipped), ["text"]);
    assert!(!report.passed());
}

#[test]
fn binary_that_comes_back_as_text_is_found() {
    let report = probed_with(Quirk::BinaryAsText, |options| {
        options.only = vec!["messages".into()];
    });
    // Only the empty message is ASCII.
    fails(
        &report,
        "empty",
        "empty binary: a text message came back instead of a binary one",
    );
}
