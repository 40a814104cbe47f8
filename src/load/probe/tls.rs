//! TLS for `wss://` (RFC 6455 section 4.1), through rustls, and what the server showed of itself.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use super::options::Trust;
use super::socket::Socket;

/// What a TLS connection to one server needs, made once for all of its connections.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    judge: Arc<Judge>,
}

/// Why TLS cannot even begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error("cannot read certificates from {}: {error}", .file.display())]
    Read {
        file: PathBuf,
        error: rustls::pki_types::pem::Error,
    },
    #[error("{} has no certificate in it (PEM: BEGIN CERTIFICATE)", .0.display())]
    Empty(PathBuf),
    #[error("{}: a certificate in it cannot be used: {error}", .file.display())]
    Unusable { file: PathBuf, error: Error },
    #[error(
        "this system trusts no certificates; install them (Debian: ca-certificates), or use --ca \
         FILE or --insecure"
    )]
    NoRoots,
    #[error("{0:?} cannot be the name in a certificate")]
    Name(String),
    #[error("rustls: {0}")]
    Rustls(#[from] Error),
}

/// Why a handshake failed.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The certificate is not believed.
    Certificate(CertificateError),
    /// The two ends found no common ground, or the server speaks no TLS.
    Protocol(Error),
    /// The connection ended or took too long.
    Io(io::Error),
}

impl Tls {
    /// Reads the certificates that are believed, and prepares connections to `host`.
    pub(super) fn new(host: &str, trust: &Trust) -> Result<Self, SetupError> {
        let provider = Arc::new(ring::default_provider());
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| SetupError::Name(host.to_owned()))?;
        let mut roots = RootCertStore::empty();
        let mut named = Vec::new();
        match trust {
            Trust::File(file) => {
                let read = |error| SetupError::Read {
                    file: file.clone(),
                    error,
                };
                for certificate in CertificateDer::pem_file_iter(file).map_err(read)? {
                    let certificate = certificate.map_err(read)?;
                    named.push(certificate.clone());
                    let added = roots.add(certificate);
                    added.map_err(|error| SetupError::Unusable {
                        file: file.clone(),
                        error,
                    })?;
                }
                if roots.is_empty() {
                    return Err(SetupError::Empty(file.clone()));
                }
            }
            Trust::System | Trust::Nobody => {
                // Files that cannot be read are as good as not there: what counts is whether the
                // server's authority is among the rest.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let verifier = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
            Some(
                builder
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?,
            )
        };
        let believe_everybody = *trust == Trust::Nobody;
        if verifier.is_none() && !believe_everybody {
            return Err(SetupError::NoRoots);
        }
        let judge = Arc::new(Judge {
            verifier,
            named,
            believe_everybody,
            provider: provider.clone(),
            seen: Mutex::new(None),
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(judge.clone())
            .with_no_client_auth();
        // A server that also speaks HTTP/2 would otherwise have no way to know (RFC 7301).
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name,
            judge,
        })
    }

    /// Does the handshake over a connected socket, whose deadline counts.
    pub(super) fn connect(&self, mut socket: Socket) -> Result<TlsStream, HandshakeError> {
        let mut session = ClientConnection::new(self.config.clone(), self.name.clone())
            .map_err(HandshakeError::Protocol)?;
        let begin = Instant::now();
        while session.is_handshaking() {
            while session.wants_write() {
                session.write_tls(&mut socket).map_err(HandshakeError::Io)?;
            }
            if !session.is_handshaking() {
                break;
            }
            match session.read_tls(&mut socket) {
                Ok(0) => return Err(HandshakeError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(HandshakeError::Io(error)),
            }
            if let Err(error) = session.process_new_packets() {
                // The alert that tells the server why; whether it arrives makes no difference.
                let _ = session.write_tls(&mut socket);
                return Err(match error {
                    Error::InvalidCertificate(error) => HandshakeError::Certificate(error),
                    error => HandshakeError::Protocol(error),
                });
            }
        }
        let duration = begin.elapsed();
        Ok(TlsStream {
            session: Box::new(session),
            socket,
            duration,
        })
    }

    /// The certificate that the server showed last, and what is to be thought of it.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.judge
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A certificate as the server showed it, and whether it is believed.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    certificate: CertificateDer<'static>,
    /// `None`: there is nobody whom this system trusts, so that nothing could be checked.
    pub(super) verdict: Option<Result<(), CertificateError>>,
}

/// Judges certificates as rustls does, and remembers what it saw: a failed handshake keeps nothing.
#[derive(Debug)]
struct Judge {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates that `--ca` names.
    named: Vec<CertificateDer<'static>>,
    believe_everybody: bool,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<Seen>>,
}

impl Judge {
    /// Judges as rustls does, with one thing more: a self-signed certificate as `openssl req -x509`
    /// makes it says that it is an authority's own, and rustls takes none of those for a server's. When
    /// it is itself what `--ca` names there is nobody else to ask, and its name and dates decide.
    fn judge(
        &self,
        verifier: &WebPkiServerVerifier,
        (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match result {
            Err(Error::InvalidCertificate(error))
                if is_authority(&error) && self.named.iter().any(|named| named == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                let (_, certificate) = X509Certificate::from_der(end_entity)
                    .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
                let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                let validity = certificate.validity();
                if now_s < validity.not_before.timestamp() {
                    return Err(CertificateError::NotValidYet.into());
                }
                if now_s > validity.not_after.timestamp() {
                    return Err(CertificateError::Expired.into());
                }
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }
}

/// Whether a certificate was refused because it is one of an authority.
fn is_authority(error: &CertificateError) -> bool {
    // rustls has no variant of its own for it: it is the sentence of webpki below.
    matches!(error, CertificateError::Other(_))
        && format!("{error:?}").contains("CaUsedAsEndEntity")
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result = self.verifier.as_ref().map(|verifier| {
            let chain = (end_entity, intermediates);
            self.judge(verifier, chain, server_name, ocsp_response, now)
        });
        let verdict = result.as_ref().map(|result| match result {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(error)) => Err(error.clone()),
            Err(_) => Err(CertificateError::ApplicationVerificationFailure),
        });
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen {
            certificate: end_entity.clone().into_owned(),
            verdict,
        });
        match result {
            _ if self.believe_everybody => Ok(ServerCertVerified::assertion()),
            Some(result) => result,
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A TLS connection. Reads and writes end with [`ErrorKind::TimedOut`] at the socket's deadline.
#[derive(Debug)]
pub(super) struct TlsStream {
    session: Box<ClientConnection>,
    pub(super) socket: Socket,
    /// How long the handshake took.
    pub(super) duration: Duration,
}

impl TlsStream {
    /// The version of TLS and the cipher suite, as `TLS 1.3` and `TLS13_AES_256_GCM_SHA384`.
    pub(super) fn parameters(&self) -> (String, String) {
        let version = match self.session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2".into(),
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3".into(),
            other => format!("{other:?}"),
        };
        let cipher = self
            .session
            .negotiated_cipher_suite()
            .map_or_else(String::new, |suite| format!("{:?}", suite.suite()));
        (version, cipher)
    }

    /// Says the end of TLS to the server (RFC 8446 section 6.1), as far as it still listens.
    pub(super) fn notify_close(&mut self) {
        self.session.send_close_notify();
        let _ = self.send();
    }

    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // 0: the server said that it ends. Without that: UnexpectedEof.
                result => return result,
            }
            self.send()?;
            self.session.read_tls(&mut self.socket)?;
            if let Err(error) = self.session.process_new_packets() {
                let _ = self.send();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let taken = self.session.writer().write(bytes)?;
            self.send()?;
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// What is said about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) subject: String,
    pub(super) issuer: String,
    /// DNS names and addresses it is for.
    pub(super) names: Vec<String>,
    pub(super) not_before: String,
    pub(super) not_after: String,
    /// Whole days until it expires; negative when it has.
    pub(super) days_left: i64,
}

impl Seen {
    /// What the certificate says; `None` when it cannot be read.
    pub(super) fn describe(&self) -> Option<Certificate> {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).ok()?;
        let names = certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .map(|names| names.value.general_names.iter().filter_map(name).collect())
            .unwrap_or_default();
        let validity = certificate.validity();
        let left_s = validity.not_after.timestamp() - ASN1Time::now().timestamp();
        Some(Certificate {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names,
            not_before: date(validity.not_before),
            not_after: date(validity.not_after),
            days_left: left_s.div_euclid(24 * 60 * 60),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match *name {
        GeneralName::DNSName(name) => Some(name.to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(bytes)
            .map(|bytes| Ipv4Addr::from(bytes).to_string())
            .or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_string()))
            .ok(),
        _ => None,
    }
}

/// The day in UTC, `2026-01-31`. Days before 1970 or after 9999 are not told apart.
fn date(time: ASN1Time) -> String {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    let seconds = seconds.min(253_402_300_799);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

impl Certificate {
    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "subject": self.subject,
            "issuer": self.issuer,
            "names": self.names,
            "not_before": self.not_before,
            "not_after": self.not_after,
            "days_left": self.days_left,
        })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = if self.names.is_empty() {
            "no name".to_owned()
        } else {
            self.names.join(", ")
        };
        write!(f, "for {names}; {} to {}", self.not_before, self.not_after)?;
        if self.days_left >= 0 {
            write!(f, " ({} days left)", self.days_left)?;
        }
        write!(f, "; issued by {:?}", self.issuer)
    }
}

/// Why a certificate is not believed, in a sentence without an end.
pub(super) fn distrust(error: &CertificateError, host: &str, seen: Option<&Certificate>) -> String {
    let self_signed = seen.is_some_and(|seen| seen.subject == seen.issuer);
    match error {
        // A bad signature: somebody with the issuer's name is trusted, and it is somebody else.
        CertificateError::UnknownIssuer | CertificateError::BadSignature if self_signed => {
            "the certificate is self-signed, and not among those that are trusted".into()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let issuer = seen.map_or("?", |seen| &seen.issuer);
            format!("the certificate was issued by {issuer:?}, whom nobody here trusts")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = seen.map_or_else(String::new, |seen| seen.names.join(", "));
            format!("the certificate is not for {host} but for {names}")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let day = seen.map_or("?", |seen| &seen.not_after);
            format!("the certificate has expired ({day})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let day = seen.map_or("?", |seen| &seen.not_before);
            format!("the certificate is not valid before {day}")
        }
        error if is_authority(error) => {
            let kind = if self_signed {
                "self-signed"
            } else {
                "an authority's own"
            };
            format!("the certificate is {kind} (basicConstraints CA:TRUE), and not trusted itself")
        }
        error => format!("the certificate is not believed: {error}"),
    }
}

/// What to do about a certificate that is not believed.
pub(super) fn advice(error: &CertificateError) -> &'static str {
    match error {
        error if is_authority(error) => {
            "give this certificate with --ca FILE, or test without this protection with --insecure"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "give the certificate of its authority, or itself, with --ca FILE, or test without \
             this protection with --insecure"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "write the URL with a name that the certificate is for, or test without this \
             protection with --insecure"
        }
        _ => {
            "renew the certificate, check the clocks, or test without this protection with \
             --insecure (--ca FILE names another authority)"
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "{error}"),
            Self::Protocol(Error::InvalidMessage(_)) => {
                write!(f, "the answer is no TLS; is this a ws:// server?")
            }
            Self::Protocol(error) => write!(f, "{error}"),
            Self::Io(error) if error.kind() == ErrorKind::TimedOut => {
                write!(f, "the handshake did not end in time")
            }
            Self::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
                write!(f, "the server closed the connection in the handshake")
            }
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}
