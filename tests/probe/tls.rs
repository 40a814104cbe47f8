//! `wss://` against a rustls server with certificates of our own.

use crate::echo::{Echo, Link, Quirk};
use crate::{RINGWIRE, all_passed_but, detail, names, quick, run, text};
use rcgen::{CertificateParams, KeyPair};
use ringwire::load::probe::{self, Mode, Options, Outcome, Trust, UnreachableKind};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

impl Link for StreamOwned<ServerConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        let _ = self.conn.complete_io(&mut self.sock);
        let _ = self.sock.shutdown(Shutdown::Write);
    }

    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

/// A server with a self-signed certificate, and a file with that certificate.
pub(crate) struct Secure {
    pub(crate) echo: Echo,
    pub(crate) file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Secure {
    /// For these names.
    pub(crate) fn start(names: &[&str]) -> Self {
        Self::with(names, |_| {})
    }

    fn with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        // As servers do that also speak HTTP/2.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("certificate.pem");
        std::fs::write(&file, certificate.pem()).unwrap();
        Self {
            echo: Echo::with(Quirk::None, move |stream| {
                let session =
                    ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
                Ok(Box::new(StreamOwned::new(session, stream)))
            }),
            file,
            _folder: folder,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("wss://{}/", self.echo.address)
    }

    fn options(&self, trust: Trust) -> Options {
        let mut options = quick(&self.url());
        options.trust = trust;
        options
    }

    /// Trusts this server's certificate.
    fn trusting(&self) -> Options {
        self.options(Trust::File(self.file.clone()))
    }
}

#[test]
fn a_trusted_server_passes_all() {
    let server = Secure::start(&["localhost", "127.0.0.1"]);
    let report = run(&server.trusting());
    let mut skipped = vec!["large-max"];
    skipped.extend(RINGWIRE);
    all_passed_but(&report, Mode::Echo, &skipped);
    assert!(
        detail(&report, "tls").starts_with("TLS 1.3, TLS13_"),
        "{}",
        text(&report)
    );
    let certificate = report.tests.iter().find(|test| test.name == "certificate");
    let figures = certificate.unwrap().figures.as_ref().unwrap();
    assert_eq!(
        figures["names"],
        serde_json::json!(["localhost", "127.0.0.1"])
    );
    assert!(figures["days_left"].as_i64().unwrap() > 365);
}

/// Nothing is sent to a server that is not trusted: the request may hold a token.
#[test]
fn a_self_signed_certificate_is_refused_with_what_to_do() {
    let server = Secure::start(&["127.0.0.1"]);
    let other = Secure::start(&["127.0.0.1"]);
    let report = run(&server.options(Trust::File(other.file.clone())));
    assert_eq!(
        names(&report, Outcome::Failed),
        ["certificate"],
        "{}",
        text(&report)
    );
    assert!(detail(&report, "certificate").contains("is self-signed"));
    let error = report.error.unwrap();
    assert_eq!(error.kind, UnreachableKind::Certificate);
    assert!(error.advice.contains("--ca FILE") && error.advice.contains("--insecure"));
    assert_eq!(server.echo.requests(), 0);
}

#[test]
fn whoever_trusts_everybody_is_told_what_was_wrong() {
    let server = Secure::start(&["other.example"]);
    let mut options = server.options(Trust::Nobody);
    options.only = vec!["handshake".into(), "text".into()];
    let report = run(&options);
    assert_eq!(
        names(&report, Outcome::Failed),
        [""; 0],
        "{}",
        text(&report)
    );
    assert_eq!(names(&report, Outcome::Skipped), ["certificate"]);
    assert!(detail(&report, "certificate").starts_with("--insecure"));
    assert!(detail(&report, "certificate").contains("for other.example"));
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let server = Secure::start(&["other.example", "192.0.2.1"]);
    let report = run(&server.trusting());
    let error = report.error.unwrap();
    assert_eq!(error.kind, UnreachableKind::Certificate);
    let expected = "the certificate is not for 127.0.0.1 but for other.example, 192.0.2.1";
    assert_eq!(error.message, expected);
    assert!(error.advice.contains("a name that the certificate is for"));
    assert_eq!(server.echo.requests(), 0);
}

#[test]
fn certificates_of_another_time_are_refused() {
    for (from, to, expected) in [
        (2001, 2002, "has expired (2002-01-01)"),
        (2090, 2091, "is not valid before 2090-01-01"),
    ] {
        let server = Secure::with(&["127.0.0.1"], |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
        });
        let error = run(&server.trusting()).error.unwrap();
        assert_eq!(error.kind, UnreachableKind::Certificate);
        assert!(error.message.contains(expected), "{error}");
    }
}

/// What `openssl req -x509` makes by default, and what TLS libraries differ about.
#[test]
fn a_self_signed_certificate_that_claims_to_be_an_authority_can_be_trusted_itself() {
    let authority = |names: &[&str], to| {
        Secure::with(names, |params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
        })
    };
    let server = authority(&["127.0.0.1"], 2090);
    let mut options = server.trusting();
    options.only = vec!["handshake".into()];
    let report = run(&options);
    assert_eq!(
        names(&report, Outcome::Failed),
        [""; 0],
        "{}",
        text(&report)
    );
    assert!(names(&report, Outcome::Passed).contains(&"certificate"));

    let other = Secure::start(&["127.0.0.1"]);
    let error = run(&server.options(Trust::File(other.file.clone())))
        .error
        .unwrap();
    assert!(
        error
            .message
            .contains("is self-signed (basicConstraints CA:TRUE)"),
        "{error}"
    );
    assert!(error.advice.contains("--ca FILE") && error.advice.contains("--insecure"));

    // Its name and its dates count all the same.
    let error = run(&authority(&["other.example"], 2090).trusting())
        .error
        .unwrap();
    assert!(
        error
            .message
            .contains("not for 127.0.0.1 but for other.example"),
        "{error}"
    );
    let error = run(&authority(&["127.0.0.1"], 2002).trusting())
        .error
        .unwrap();
    assert!(
        error.message.contains("has expired (2002-01-01)"),
        "{error}"
    );
}

#[test]
fn without_tls_on_the_other_side_the_advice_is_the_other_scheme() {
    let plain = Echo::start(Quirk::None);
    // (A system that trusts nobody could not even begin.)
    let mut options = quick(&plain.url().replace("ws:", "wss:"));
    options.trust = Trust::Nobody;
    let report = run(&options);
    let failed = names(&report, Outcome::Failed);
    // The server waits for the end of a request that never ends; some answer, some do not.
    assert_eq!(failed, ["tls"], "{}", text(&report));
    assert!(report.error.unwrap().advice.contains("ws://"));

    let secure = Secure::start(&["127.0.0.1"]);
    let report = run(&quick(&secure.url().replace("wss:", "ws:")));
    assert_eq!(names(&report, Outcome::Failed), ["upgrade"]);
    assert!(report.error.unwrap().advice.contains("wss://"));
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let server = Secure::start(&["127.0.0.1"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let refused = || {
        let options = server.options(Trust::File(file.clone()));
        probe::run(&options, &mut |_| {}).unwrap_err().to_string()
    };
    assert!(refused().contains("cannot read certificates from"));
    std::fs::write(&file, "nothing\n").unwrap();
    assert!(refused().contains("has no certificate in it"));
}
