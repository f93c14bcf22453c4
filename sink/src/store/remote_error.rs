//! What a bucket's refusal means for the one who runs bygone.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Error, ErrorKind};

/// Translates an error of the object store. `what` says what was being done, `place` where.
pub(super) fn translate(what: &'static str, place: &str, path: &str, err: object_store::Error) -> Error {
    use object_store::Error as Store;
    let text = chain_text(&err);
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let (kind, remedy) = if says(&["NoSuchBucket"]) {
        (ErrorKind::BucketMissing, "the bucket does not exist; create it, or correct the address")
    } else if let Store::NotFound { .. } = err {
        (ErrorKind::NotFound, "there is no such object")
    } else if says(&["169.254.169.254", "169.254.170.2"]) {
        (
            ErrorKind::Configuration,
            "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    } else if says(&["PermanentRedirect", "AuthorizationHeaderMalformed", "incorrectly configured region"]) {
        (ErrorKind::Configuration, "the bucket is in another region; set AWS_REGION to it")
    } else if says(&["RequestTimeTooSkewed"]) {
        (ErrorKind::Configuration, "this machine's clock is wrong; set it right")
    } else if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"]) {
        (ErrorKind::Denied, "the store does not accept the credentials; they are wrong or have expired")
    } else if matches!(err, Store::PermissionDenied { .. } | Store::Unauthenticated { .. })
        || says(&["AccessDenied", "status code: 401", "status code: 403"])
    {
        (
            ErrorKind::Denied,
            "the store refused; the credentials need s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket there",
        )
    } else if says(&["InsufficientStorage", "StorageFull", "QuotaExceeded", "status code: 507"]) {
        (ErrorKind::NoSpace, "the store is full; free space or raise the quota")
    } else if matches!(err, Store::NotImplemented { .. }) || says(&["status code: 501"]) {
        (
            ErrorKind::Unsupported,
            "the store cannot do this; a history needs one that honours `If-None-Match: *` on PUT",
        )
    } else if says(&["invalid peer certificate"]) {
        (
            ErrorKind::Configuration,
            "the server's certificate is not accepted; AWS_ENDPOINT_URL names the wrong server, or \
          this machine does not trust the certificate's issuer",
        )
    } else if is_unreachable(&err) || says(&SERVER_TROUBLE) {
        (ErrorKind::Unreachable, "the store does not answer; check the endpoint and the network")
    } else {
        (ErrorKind::Io, "")
    };
    let subject = if path.is_empty() { place.to_owned() } else { format!("{place}/{path}") };
    let detail = match kind {
        _ if remedy.is_empty() => format!("{subject}: {err}"),
        ErrorKind::Unreachable => format!("{subject}: {remedy} ({})", root_cause(&err)),
        _ => format!("{subject}: {remedy}"),
    };
    Error::new(kind, what, detail).with_source(err)
}

/// The texts of an error and its causes.
fn chain_text(err: &dyn StdError) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text.push(' ');
        text.push_str(&err.to_string());
        cause = err.source();
    }
    text
}

/// The innermost cause, which says most: "connection refused", "dns error".
fn root_cause(err: &dyn StdError) -> String {
    let mut innermost = err;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string().chars().take(300).collect()
}

fn is_unreachable(err: &dyn StdError) -> bool {
    let mut cause = err.source();
    while let Some(err) = cause {
        if let Some(http) = err.downcast_ref::<HttpError>() {
            use HttpErrorKind as Kind;
            return matches!(
                http.kind(),
                Kind::Connect | Kind::Request | Kind::Timeout | Kind::Interrupted | Kind::Unknown
            );
        }
        cause = err.source();
    }
    false
}

/// How a server says that it, and not the request, is at fault.
const SERVER_TROUBLE: [&str; 8] = [
    "status code: 408",
    "status code: 429",
    "status code: 500",
    "status code: 502",
    "status code: 503",
    "status code: 504",
    "SlowDown",
    "InternalError",
];
