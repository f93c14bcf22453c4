//! TLS as libpq understands it ("SSL Support" in the PostgreSQL manual).

mod certificate;
mod verify;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::conninfo::{ConnectOptions, Endpoint, Host, RootCertificates, SslMode, TlsOptions};
use crate::error::{Error, ErrorKind, Result};

pub(crate) use certificate::server_end_point;
use verify::{Check, Verifier};

/// Makes a TLS session over a socket whose server has agreed to it.
pub(crate) async fn handshake(
    stream: TcpStream,
    host: &Host,
    options: &ConnectOptions,
) -> Result<TlsStream<TcpStream>> {
    let name = server_name(host, &stream)?;
    let config = client_config(&options.tls, matches!(name, ServerName::DnsName(_)))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    Box::pin(handshake).await.map_err(|err| {
        let refused = err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match refused {
            Some(refused) => Error::new(ErrorKind::Tls, "TLS handshake failed", explain(refused)),
            None => Error::io("TLS handshake failed", &err),
        }
    })
}

/// The name that the certificate is checked against.
fn server_name(host: &Host, stream: &TcpStream) -> Result<ServerName<'static>> {
    let name = match &host.endpoint {
        Endpoint::Tcp { name, .. } => name.trim_end_matches('.').to_owned(),
        Endpoint::Unix(_) => String::new(),
    };
    match ServerName::try_from(name) {
        Ok(name) => Ok(name),
        // No name (hostaddr alone), or one that is no DNS name: an underscore, say. verify-full then fails by itself,
        // since no certificate is for the address.
        Err(_) => {
            let peer = stream.peer_addr().map_err(|err| Error::io("TLS handshake failed", &err))?;
            Ok(ServerName::from(peer.ip()))
        }
    }
}

/// Reads the files that a session would use.
pub(crate) fn check_files(options: &TlsOptions) -> Result<()> {
    client_config(options, true).map(drop)
}

fn client_config(options: &TlsOptions, named: bool) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let check = check(options)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|err| Error::new(ErrorKind::Tls, "TLS cannot be set up", err))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(check, &provider)));
    let mut config = match &options.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(certificates(chain)?, private_key(key)?)
            .map_err(|err| config_error(chain, err))?,
    };
    config.enable_sni = options.server_name && named;
    // Each connection stands alone: nothing is gained by resuming sessions, and the server turns tickets off.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// What is checked of the server's certificate.
fn check(options: &TlsOptions) -> Result<Check> {
    let roots = match &options.roots {
        RootCertificates::System => system_roots()?,
        RootCertificates::File(file) | RootCertificates::Default(Some(file)) => certificates(file)?,
        RootCertificates::Default(None) if options.mode >= SslMode::VerifyCa => {
            return Err(Error::new(
                ErrorKind::Config,
                "sslmode=verify-ca and verify-full need a root certificate",
                "set sslrootcert to the file of the authority that signed the server's certificate, or to system",
            ));
        }
        RootCertificates::Default(None) => return Ok(Check::Nothing),
    };
    // As in libpq: where a root certificate is at hand, the chain is checked whatever the mode says.
    Ok(Check::Chain { roots: store(&roots), pinned: roots, name: options.mode == SslMode::VerifyFull })
}

fn store(roots: &[CertificateDer<'static>]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    let (_, ignored) = store.add_parsable_certificates(roots.iter().cloned());
    if ignored > 0 {
        tracing::warn!(ignored, "root certificates that cannot be read are left out");
    }
    store
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Error::new(
            ErrorKind::Config,
            "sslrootcert=system: the system has no root certificates (install ca-certificates)",
            reasons.join("; "),
        ));
    }
    Ok(found.certs)
}

fn config_error(file: &Path, err: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Config,
        "certificate or key cannot be used",
        format_args!("{}: {err}", file.display()),
    )
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = fs::read(file).map_err(|err| config_error(file, err))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|err| config_error(file, err))?;
    if found.is_empty() {
        return Err(config_error(file, "it holds no PEM certificate"));
    }
    Ok(found)
}

/// A private key, which nobody else may read: libpq's rule.
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let metadata = fs::metadata(file).map_err(|err| config_error(file, err))?;
    // Root's keys may be readable to a group: services share them that way.
    let others = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.mode() & others != 0 {
        return Err(config_error(file, "others can read this private key; run chmod 600 on it"));
    }
    let bytes = fs::read(file).map_err(|err| config_error(file, err))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|err| {
        if bytes.windows(9).any(|window| window == b"ENCRYPTED") {
            config_error(file, "keys with a passphrase are not supported: openssl pkey -in KEY -out NEWKEY")
        } else {
            config_error(file, err)
        }
    })
}

/// What a TLS failure means to an operator.
fn explain(err: &rustls::Error) -> String {
    use rustls::CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer,
    };
    let remedy = match err {
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "; no certificate in sslrootcert has signed the server's certificate"
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "; connect by a name that the certificate holds, or use sslmode=verify-ca"
        }
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "; renew the server's certificate"
        }
        rustls::Error::AlertReceived(_) => {
            "; the server refused this client's certificate, or wants one: see sslcert and the server's log"
        }
        _ => "",
    };
    format!("{err}{remedy}")
}

/// The algorithms and primitives: ring, named explicitly so that no other crate's choice of a process-wide default
/// matters.
fn algorithms(provider: &CryptoProvider) -> rustls::crypto::WebPkiSupportedAlgorithms {
    provider.signature_verification_algorithms
}
