//! Checking the server's certificate, by libpq's rules.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::{algorithms, certificate};

const PKCS1: [SignatureScheme; 3] =
    [SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::RSA_PKCS1_SHA384, SignatureScheme::RSA_PKCS1_SHA512];

/// What is checked.
#[derive(Debug)]
pub(super) enum Check {
    /// Nothing: `require` and `prefer` without a root certificate protect from listeners only.
    Nothing,
    /// That an authority vouches for the certificate.
    Chain {
        /// The authorities.
        roots: RootCertStore,
        /// The same as they stand in the file: a server's own certificate may be among them.
        pinned: Vec<CertificateDer<'static>>,
        /// Also that the certificate is for the host.
        name: bool,
    },
}

/// rustls' way to ask.
#[derive(Debug)]
pub(super) struct Verifier {
    check: Check,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(check: Check, provider: &CryptoProvider) -> Self {
        Self { check, algorithms: algorithms(provider) }
    }

    fn check_chain(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &RootCertStore,
        pinned: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // A self-signed certificate that is given as the root: what the manual's first recipe makes. It is an
        // authority by its own word, which rustls would not take as a server's.
        if pinned.contains(server) {
            return certificate::check_validity(server, now);
        }
        match ParsedCertificate::try_from(server) {
            Ok(parsed) => verify_server_cert_signed_by_trust_anchor(
                &parsed,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            ),
            Err(_) => {
                certificate::check_validity(server, now)?;
                certificate::check_signed_by(server, pinned, self.algorithms.all)
            }
        }
    }

    /// Verifies a signature of the handshake with the key of a certificate that rustls cannot read.
    fn verify_by_key(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let scheme = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let candidates = scheme.map_or(&[][..], |(_, candidates)| *candidates);
        let key = certificate::public_key(server)?;
        certificate::verify_with_key(&key, candidates.iter().copied(), message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn check_name(server: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let verified = match ParsedCertificate::try_from(server) {
        Ok(parsed) => verify_server_name(&parsed, name),
        Err(_) => Err(CertificateError::NotValidForName.into()),
    };
    if verified.is_err() && certificate::common_name_is(server, &name.to_str()) { Ok(()) } else { verified }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Check::Chain { roots, pinned, name } = &self.check {
            self.check_chain(end_entity, intermediates, roots, pinned, now)?;
            if *name {
                check_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match ParsedCertificate::try_from(cert) {
            Ok(_) => verify_tls12_signature(message, cert, dss, &self.algorithms),
            Err(_) => self.verify_by_key(message, cert, dss),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match ParsedCertificate::try_from(cert) {
            Ok(_) => verify_tls13_signature(message, cert, dss, &self.algorithms),
            // TLS 1.3 has done away with PKCS #1 signatures in the handshake.
            Err(_) if PKCS1.contains(&dss.scheme) => Err(CertificateError::BadSignature.into()),
            Err(_) => self.verify_by_key(message, cert, dss),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
