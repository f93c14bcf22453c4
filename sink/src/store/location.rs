//! Where a history is kept.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// Where a history is kept: a directory, or a prefix in a bucket or container. Holds no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// A directory, as an absolute path.
    Local(PathBuf),
    /// `s3://bucket/prefix`: S3, or what speaks its protocol.
    S3 {
        /// The bucket.
        bucket: String,
        /// What stands before every object's path, without slashes at its ends; empty for the whole bucket.
        prefix: String,
    },
    /// `az://container/prefix`: Azure Blob Storage.
    Azure {
        /// The container.
        container: String,
        /// As that of a bucket.
        prefix: String,
    },
}

impl Location {
    /// Reads a path, `file://…`, `s3://bucket/prefix` or `az://container/prefix`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidLocation`] for what names no place, and for places that are not supported (`gs://`).
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::new(ErrorKind::InvalidLocation, "not a place for a history", why);
        let Some((scheme, rest)) = text.split_once("://") else {
            if let Some((scheme @ ("s3" | "gs" | "az" | "file"), _)) = text.split_once(':') {
                return Err(invalid(&format!("{text:?}: write {scheme}:// with two slashes")));
            }
            return local(Path::new(text)).ok_or_else(|| invalid("the path is empty"));
        };
        match scheme {
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err(invalid(&format!(
                        "{text:?}: file:// wants an absolute path, as in file:///var/history"
                    )));
                }
                let path =
                    percent_decoded(path).ok_or_else(|| invalid(&format!("{text:?}: bad %-escape")))?;
                local(Path::new(&path)).ok_or_else(|| invalid("the path is empty"))
            }
            "s3" | "s3a" => {
                let (bucket, prefix) = bucket(rest, &S3_WORDS).map_err(|why| invalid(&why))?;
                Ok(Self::S3 { bucket, prefix })
            }
            "az" | "azure" => {
                let (container, prefix) = bucket(rest, &AZURE_WORDS).map_err(|why| invalid(&why))?;
                Ok(Self::Azure { container, prefix })
            }
            "abfs" | "abfss" => Err(invalid(&format!(
                "{scheme}:// is of Hadoop; write az://container/prefix, with the account in AZURE_STORAGE_ACCOUNT_NAME"
            ))),
            "gs" => Err(invalid(
                "Google Cloud Storage (gs://) is not supported; use a path, file://, s3://bucket/prefix or az://container/prefix",
            )),
            "postgres" | "postgresql" => Err(invalid(
                "postgres:// holds fact tables, which reading commands take; to write there, give bygone run --facts",
            )),
            _ => Err(invalid(&format!(
                "{scheme:?} is not a known scheme; use a path, file://, s3://bucket/prefix or az://container/prefix"
            ))),
        }
    }
}

fn local(path: &Path) -> Option<Location> {
    std::path::absolute(path).ok().map(Location::Local)
}

/// What an address is called, and why it holds no credentials.
struct Words {
    bucket: &'static str,
    credentials: &'static str,
}

const S3_WORDS: Words = Words {
    bucket: "bucket",
    credentials: "an s3:// address holds no credentials; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or into a \
                  profile (AWS_PROFILE)",
};

const AZURE_WORDS: Words = Words {
    bucket: "container",
    credentials: "an az:// address holds neither account nor credentials; put them into AZURE_STORAGE_ACCOUNT_NAME and \
                  AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN)",
};

/// The name of a bucket, and a prefix in it.
fn bucket(rest: &str, words: &Words) -> Result<(String, String), String> {
    if rest.contains('@') {
        // Not repeated in the message: it may hold a secret.
        return Err(words.credentials.to_owned());
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(format!("{bucket:?} is not the name of a {}", words.bucket));
    }
    let prefix = prefix.trim_end_matches('/');
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..") && !segment.chars().any(|c| c.is_control() || "?#%\\".contains(c))
    };
    if !prefix.is_empty() && !prefix.split('/').all(plain) {
        return Err(format!(
            "{prefix:?} is not a plain prefix (no empty, '.' or '..' part, none of ? # % \\)"
        ));
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
            decoded.push(u8::try_from(value).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok().filter(|text| !text.contains('\0'))
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket, prefix) = match self {
            Self::Local(path) => return write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } => ("s3", bucket, prefix),
            Self::Azure { container, prefix } => ("az", container, prefix),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{bucket}{slash}{prefix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_addresses_are_told_apart() {
        for (text, shown) in [
            ("/var/history", "/var/history"),
            ("file:///var/my%20history", "/var/my history"),
            ("file://localhost/var/h", "/var/h"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), shown);
        }
        let Location::Local(path) = Location::parse("./history").unwrap() else {
            panic!("a path is a directory")
        };
        assert!(path.is_absolute());
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in [
            "",
            "s3://",
            "s3:///x",
            "s3:bucket/x",
            "s3://bu cket",
            "s3://b/../c",
            "s3://b//c",
            "s3://b/./c",
            "s3://b?x=1",
            "s3://b/c?x=1",
            "s3://b/%2e",
            "file://host/x",
            "file://",
            "file:///%zz",
            "file:///%00",
            "ftp://x",
            "gs://bucket/x",
            "://",
            "file:x",
        ] {
            assert_eq!(Location::parse(text).unwrap_err().kind(), ErrorKind::InvalidLocation, "{text:?}");
        }
        let hadoop = Location::parse("abfss://container@account.dfs.core.windows.net/x").unwrap_err();
        assert!(hadoop.to_string().contains("az://container/prefix"), "{hadoop}");
    }

    #[test]
    fn a_container_of_azure_is_named_as_a_bucket_is() {
        for (text, shown) in [("az://container/a/b/", "az://container/a/b"), ("azure://c", "az://c")] {
            let location = Location::parse(text).unwrap();
            assert!(matches!(location, Location::Azure { .. }), "{location:?}");
            assert_eq!(location.to_string(), shown);
        }
        let err = Location::parse("az://account:hushhush@container/x").unwrap_err();
        assert!(!format!("{err:#} {err:?}").contains("hushhush"), "{err}");
        assert!(err.to_string().contains("AZURE_STORAGE_ACCOUNT_NAME"), "{err}");
    }

    #[test]
    fn credentials_in_an_address_are_refused_and_not_repeated() {
        let err = Location::parse("s3://AKIAKEY:hushhush@bucket/x").unwrap_err();
        assert!(!format!("{err:#} {err:?}").contains("hushhush"), "{err}");
    }
}
