//! What has to be read out of certificates beyond what rustls reads.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::{CertificateError, Error};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ContextSpecific, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::{rfc4519, rfc5912};
use x509_cert::der::referenced::OwnedToRef as _;
use x509_cert::der::{Decode as _, Encode as _, SliceReader, TagNumber, oid::ObjectIdentifier};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef, SubjectPublicKeyInfoOwned};

/// `tls-server-end-point` of a server's certificate (RFC 5929, section 4.1): its hash under the hash function of its
/// signature, at least SHA-256. `None` where the signature has no hash function of its own (Ed25519).
pub(crate) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm;
    let hash = if algorithm.oid == rfc5912::ID_RSASSA_PSS { pss_hash(algorithm)? } else { algorithm.oid };
    Some(match hash {
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 | rfc5912::ID_SHA_384 => {
            Sha384::digest(certificate).to_vec()
        }
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_512 | rfc5912::ID_SHA_512 => {
            Sha512::digest(certificate).to_vec()
        }
        // MD5 and SHA-1 are replaced by SHA-256.
        rfc5912::SHA_256_WITH_RSA_ENCRYPTION
        | rfc5912::ECDSA_WITH_SHA_256
        | rfc5912::ID_SHA_256
        | rfc5912::SHA_1_WITH_RSA_ENCRYPTION
        | rfc5912::ID_SHA_1
        | rfc5912::MD_5_WITH_RSA_ENCRYPTION => Sha256::digest(certificate).to_vec(),
        _ => return None,
    })
}

/// The hash function of an RSASSA-PSS signature (RFC 4055, section 3.1: SHA-1 where it is not named).
fn pss_hash(algorithm: &AlgorithmIdentifierOwned) -> Option<ObjectIdentifier> {
    let parameters = algorithm.parameters.as_ref()?.value();
    let mut reader = SliceReader::new(parameters).ok()?;
    let hash =
        ContextSpecific::<AlgorithmIdentifierRef<'_>>::decode_explicit(&mut reader, TagNumber::N0).ok()?;
    Some(hash.map_or(rfc5912::ID_SHA_1, |hash| hash.value.oid))
}

/// Whether the certificate names its host in the old way, and that is the host: by the common name of the subject,
/// which counts only where there is no alternative name for a host (RFC 6125, section 6.4.4; libpq does the same).
pub(super) fn common_name_is(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(parsed) = Certificate::from_der(certificate) else { return false };
    let subject = &parsed.tbs_certificate;
    match subject.get::<SubjectAltName>() {
        Ok(None) => {}
        Ok(Some((_, names))) => {
            let of_host =
                |name: &GeneralName| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_));
            if names.0.iter().any(of_host) {
                return false;
            }
        }
        Err(_) => return false,
    }
    let attributes = subject.subject.0.iter().flat_map(|name| name.0.iter());
    let mut names = attributes.filter(|attribute| attribute.oid == rfc4519::CN).filter_map(|attribute| {
        let value = &attribute.value;
        let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
        utf8.or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned()))
            .ok()
    });
    names.any(|name| name_matches(&name, host))
}

/// A name of a certificate against a host: equal but for case, or `*.` for the first label.
fn name_matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let wildcard = name.strip_prefix("*.").filter(|rest| rest.contains('.') && !rest.contains('*'));
    match (wildcard, host.split_once('.')) {
        (Some(rest), Some((label, domain))) => !label.is_empty() && rest.eq_ignore_ascii_case(domain),
        _ => false,
    }
}

/// Refuses a certificate that is not valid at a time.
pub(super) fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = parse(certificate)?;
    let validity = parsed.tbs_certificate.validity;
    let now = Duration::from_secs(now.as_secs());
    if now < validity.not_before.to_unix_duration() {
        Err(CertificateError::NotValidYet.into())
    } else if now > validity.not_after.to_unix_duration() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// Refuses a certificate that no root has signed directly.
///
/// For certificates of X.509 version 1, which rustls does not take and which the PostgreSQL manual's own recipe
/// (`openssl x509 -req` without extensions) makes with OpenSSL before 3.4. They have no extensions to be heeded.
pub(super) fn check_signed_by(
    certificate: &CertificateDer<'_>,
    roots: &[CertificateDer<'_>],
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Result<(), Error> {
    let parsed = parse(certificate)?;
    if parsed.tbs_certificate.extensions.is_some() {
        return Err(CertificateError::UnknownIssuer.into());
    }
    let signed = parsed.tbs_certificate.to_der().map_err(|_| CertificateError::BadEncoding)?;
    let signature = parsed.signature.raw_bytes();
    let with = identifier(&parsed.signature_algorithm)?;
    for root in roots {
        let Ok(root) = parse(root) else { continue };
        if root.tbs_certificate.subject != parsed.tbs_certificate.issuer {
            continue;
        }
        let key = &root.tbs_certificate.subject_public_key_info;
        let suitable = algorithms.iter().filter(|algorithm| algorithm.signature_alg_id().as_ref() == with);
        if verify_with_key(key, suitable.copied(), &signed, signature).is_ok() {
            return Ok(());
        }
    }
    Err(CertificateError::UnknownIssuer.into())
}

/// The public key of a certificate.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoOwned, Error> {
    Ok(parse(certificate)?.tbs_certificate.subject_public_key_info)
}

/// Verifies a signature by a key, under whichever of the algorithms is for such a key.
pub(super) fn verify_with_key<'a>(
    key: &SubjectPublicKeyInfoOwned,
    algorithms: impl IntoIterator<Item = &'a dyn SignatureVerificationAlgorithm>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    let kind = identifier(&key.algorithm)?;
    let bits = key.owned_to_ref().subject_public_key.raw_bytes();
    let mut suitable =
        algorithms.into_iter().filter(|algorithm| algorithm.public_key_alg_id().as_ref() == kind);
    if suitable.any(|algorithm| algorithm.verify_signature(bits, message, signature).is_ok()) {
        Ok(())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// An algorithm identifier as rustls writes it: the content of the SEQUENCE.
fn identifier(algorithm: &AlgorithmIdentifierOwned) -> Result<Vec<u8>, Error> {
    let mut content = algorithm.oid.to_der().map_err(|_| CertificateError::BadEncoding)?;
    if let Some(parameters) = &algorithm.parameters {
        content.extend(parameters.to_der().map_err(|_| CertificateError::BadEncoding)?);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_label() {
        for (name, host, same) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*.*.com", "a.b.com", false),
            ("db", "db2", false),
            ("", "db", false),
            ("10.0.0.1", "10.0.0.1", true),
        ] {
            assert_eq!(name_matches(name, host), same, "{name} {host}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for bytes in [&b""[..], b"0", b"\x30\x03\x02\x01\x01", &[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF]] {
            let certificate = CertificateDer::from(bytes);
            assert_eq!(server_end_point(&certificate), None);
            assert!(!common_name_is(&certificate, "db"));
            assert!(check_validity(&certificate, UnixTime::now()).is_err());
            assert!(check_signed_by(&certificate, &[], &[]).is_err());
            assert!(public_key(&certificate).is_err());
        }
    }
}
