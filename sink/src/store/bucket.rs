//! What a bucket does for the objects in it: asked of the bucket itself, for which the object store has no call.

use std::fmt;

use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// What a bucket does for the objects in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// An object that is replaced or deleted stays as an earlier version.
    pub versioning: bool,
    /// Objects can be locked.
    pub lock: bool,
    /// For how long each new object is locked, without being asked to be.
    pub retention: Option<Retention>,
}

/// For how long objects are locked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Retention {
    /// `COMPLIANCE`: nobody can unlock it; `GOVERNANCE`: who has the right to can.
    pub mode: String,
    /// Days.
    #[serde(default)]
    pub days: Option<u32>,
    /// Years.
    #[serde(default)]
    pub years: Option<u32>,
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mode)?;
        match (self.days, self.years) {
            (Some(days), _) => write!(f, ", {days} days"),
            (_, Some(years)) => write!(f, ", {years} years"),
            _ => Ok(()),
        }
    }
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketVersioning.html>
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioning {
    #[serde(default)]
    status: String,
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectLockConfiguration.html>
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Lock {
    #[serde(default)]
    object_lock_enabled: String,
    rule: Option<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rule {
    default_retention: Option<Retention>,
}

/// The way to the bucket itself.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) url: String,
    pub(super) region: String,
    /// None where requests are not signed.
    pub(super) credentials: Option<AwsCredentialProvider>,
}

impl Bucket {
    /// Asks what the bucket does for its objects.
    pub(super) async fn protection(&self) -> Result<Protection> {
        let client = ReqwestConnector::default()
            .connect(&ClientOptions::new().with_allow_http(true))
            .map_err(|error| failed(&error.to_string()))?;
        let versioning: Versioning = self.ask(&client, "versioning").await?.unwrap_or_default();
        // A bucket without a lock has no configuration of one.
        let lock: Lock = self.ask(&client, "object-lock").await?.unwrap_or_default();
        Ok(Protection {
            versioning: versioning.status == "Enabled",
            lock: lock.object_lock_enabled == "Enabled",
            retention: lock.rule.and_then(|rule| rule.default_retention),
        })
    }

    async fn ask<T: DeserializeOwned>(&self, client: &HttpClient, what: &str) -> Result<Option<T>> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = format!("{}?{what}", self.url)
            .parse()
            .map_err(|_| failed("the bucket's address makes no sense"))?;
        if let Some(credentials) = &self.credentials {
            let credential =
                credentials.get_credential().await.map_err(|error| failed(&error.to_string()))?;
            AwsAuthorizer::new(&credential, "s3", &self.region).authorize(&mut request, None);
        }
        let response = client.execute(request).await.map_err(|error| failed(&error.to_string()))?;
        let status = response.status();
        match status.as_u16() {
            200 => {}
            404 => return Ok(None),
            403 => {
                let detail = format!("the bucket does not answer {what:?}: {status}");
                return Err(Error::new(ErrorKind::Denied, "the bucket refuses", detail));
            }
            _ => return Err(failed(&format!("{what}: {status}"))),
        }
        let body = response.into_body().bytes().await.map_err(|error| failed(&error.to_string()))?;
        let text = std::str::from_utf8(&body).map_err(|_| failed("the answer is no text"))?;
        quick_xml::de::from_str(text).map(Some).map_err(|error| failed(&error.to_string()))
    }
}

fn failed(why: &str) -> Error {
    Error::new(ErrorKind::Unreachable, "the bucket cannot be asked about itself", why.to_owned())
}
