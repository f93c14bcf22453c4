//! A bucket as a store.
//!
//! Creation is a conditional request (`If-None-Match: *`). A refusal can be the echo of our own earlier attempt whose
//! reply was lost, here or inside the object store's client, which repeats requests by itself; so after a refusal the
//! object is read back, and if its bytes are ours, it is ours. After an error that leaves the outcome open it is read back
//! too, and the request repeated where nothing is there: a first attempt that arrives late finds our own bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, GetOptions, HeaderValue, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, RetryConfig, TagSet,
};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::aws_profile::Profile;
use super::bucket::{Bucket, Protection};
use super::local::{locked_file, remove_files_of_others};
use super::remote_error::translate;
use super::{Location, Object, PutOutcome, RETENTION_TAG, Sealed, StoreOptions, blocking};
use crate::error::{Error, ErrorKind, Result};
use crate::log::ContentHash;
use crate::timestamp::Timestamp;

/// Files up to this size go in one request; the bytes are in memory meanwhile.
const SINGLE_PUT: u64 = 16 << 20;
/// On Azure the completion of an upload in parts can be made conditional only where its request is signed, which the object
/// store does by itself; one request takes as much as this there.
const AZURE_SINGLE_PUT: u64 = 5000 << 20;
/// Larger ones go in parts of this size (S3 wants at least 5 MiB, and at most 10,000 parts) …
const PART: u64 = 8 << 20;
/// … so many at a time: 24 MiB of buffers for each file that is being uploaded.
const PARTS_IN_FLIGHT: usize = 3;

/// A reply that takes longer is taken for lost. A part of 8 MiB gets through at 140 KB/s.
const REQUEST_TIMEOUT: &str = "60 seconds";

/// Before their random part, so that what a crash left in a shared directory is known for ours.
const SPOOL_PREFIX: &str = "bygone-spool-";

#[derive(Debug)]
pub(super) struct RemoteStore {
    store: Arc<dyn ObjectStore>,
    /// Without a slash at its end; empty for the whole bucket.
    prefix: String,
    description: String,
    retry_for: Duration,
    spool: Option<PathBuf>,
    instance: String,
    single_put: u64,
    /// Whom to ask for what the bucket does for its objects; none where only S3 would know.
    bucket: Option<Bucket>,
}

impl RemoteStore {
    /// A prefix of an S3 bucket, with the usual settings of AWS: environment, then profile files, then what the machine
    /// it runs on provides.
    pub(super) fn s3(bucket: &str, prefix: &str, options: &StoreOptions) -> Result<Self> {
        let environment = environment(options);
        let env = |name: &str| environment.get(name).cloned();
        let mut builder = AmazonS3Builder::new();
        for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("AWS_")) {
            if let Ok(key) = name.to_ascii_lowercase().parse() {
                builder = builder.with_config(key, value);
            }
        }
        let set = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).is_some();
        let other_source = [
            AmazonS3ConfigKey::WebIdentityTokenFile,
            AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
            AmazonS3ConfigKey::ContainerCredentialsFullUri,
        ];
        let skip_signature =
            builder.get_config_value(&AmazonS3ConfigKey::SkipSignature).as_deref() == Some("true");
        let wants_keys = !set(&builder, AmazonS3ConfigKey::AccessKeyId)
            && !skip_signature
            && (env("AWS_PROFILE").is_some() || !other_source.into_iter().any(|key| set(&builder, key)));
        let profile = Profile::read(env)?;
        if wants_keys && let Some((key, secret, token)) = profile.keys()? {
            builder = builder.with_access_key_id(key).with_secret_access_key(secret);
            if let Some(token) = token {
                builder = builder.with_token(token);
            }
        }
        if !set(&builder, AmazonS3ConfigKey::Region)
            && let Some(region) = &profile.region
        {
            builder = builder.with_region(region);
        }
        let endpoint = builder
            .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint))
            .or(profile.endpoint_url);
        let region = builder.get_config_value(&AmazonS3ConfigKey::Region);
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let is_whole = builder.get_config_value(&AmazonS3ConfigKey::VirtualHostedStyleRequest).as_deref()
            == Some("true");
        let url = match &endpoint {
            Some(endpoint) if is_whole => endpoint.trim_end_matches('/').to_owned(),
            Some(endpoint) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
            None => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        };
        let mut description = format!("s3://{bucket}");
        if !prefix.is_empty() {
            description = format!("{description}/{prefix}");
        }
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
            if endpoint.starts_with("http://") {
                builder = builder.with_allow_http(true);
            }
            let host = endpoint.split("://").last().unwrap_or_default();
            if host.contains('@') {
                // Not repeated in the message: it may hold a secret.
                let detail = "the endpoint's address holds a user or password, which S3 does not take; \
                              put credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or into a profile";
                return Err(Error::new(ErrorKind::Configuration, "bad settings for S3", detail));
            }
            description = format!("{description} at {host}");
        }
        let store = builder
            .with_bucket_name(bucket)
            .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
            .with_retry(retry(options))
            .with_http_connector(ConditionalCompletion)
            .build()
            .map_err(|err| {
                Error::new(ErrorKind::Configuration, "bad settings for S3", err.to_string()).with_source(err)
            })?;
        let credentials = (!skip_signature).then(|| Arc::clone(store.credentials()));
        let bucket = Some(Bucket { url, region, credentials });
        Ok(Self { bucket, ..Self::of(Arc::new(store), prefix, description, options) })
    }

    /// A prefix of a container of Azure Blob Storage, with the usual settings of Azure out of the environment.
    pub(super) fn azure(container: &str, prefix: &str, options: &StoreOptions) -> Result<Self> {
        let environment = environment(options);
        let mut builder = MicrosoftAzureBuilder::new().with_container_name(container);
        for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("AZURE_")) {
            let name = match name.as_str() {
                // As the tools of Azure have it.
                "AZURE_STORAGE_ACCOUNT" => "AZURE_STORAGE_ACCOUNT_NAME",
                "AZURE_STORAGE_KEY" => "AZURE_STORAGE_ACCOUNT_KEY",
                name => name,
            };
            if let Ok(key) = name.to_ascii_lowercase().parse() {
                builder = builder.with_config(key, value);
            }
        }
        let mut description =
            Location::Azure { container: container.to_owned(), prefix: prefix.to_owned() }.to_string();
        if let Some(endpoint) = builder.get_config_value(&AzureConfigKey::Endpoint) {
            if endpoint.starts_with("http://") {
                builder = builder.with_allow_http(true);
            }
            description = format!("{description} at {}", endpoint.split("://").last().unwrap_or_default());
        }
        let store = builder
            .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
            .with_retry(retry(options))
            .build()
            .map_err(|err| {
                let detail = format!(
                    "{err}; the account stands in AZURE_STORAGE_ACCOUNT_NAME, its key in AZURE_STORAGE_ACCOUNT_KEY"
                );
                Error::new(ErrorKind::Configuration, "bad settings for Azure", detail).with_source(err)
            })?;
        Ok(Self { single_put: AZURE_SINGLE_PUT, ..Self::of(Arc::new(store), prefix, description, options) })
    }

    fn of(store: Arc<dyn ObjectStore>, prefix: &str, description: String, options: &StoreOptions) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            description,
            retry_for: options.retry_for,
            spool: options.spool.clone(),
            instance: format!("{:016x}", rand::random::<u64>()),
            single_put: SINGLE_PUT,
            bucket: None,
        }
    }

    /// What the bucket does for its objects; none where it cannot be asked.
    pub(super) async fn protection(&self) -> Result<Option<Protection>> {
        match &self.bucket {
            Some(bucket) => bucket.protection().await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn describe(&self) -> &str {
        &self.description
    }

    fn key(&self, path: &str) -> Result<Key> {
        let whole = match (self.prefix.as_str(), path) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}/{path}"),
        };
        Key::parse(&whole).map_err(|err| {
            Error::new(ErrorKind::InvalidPath, "not a path inside a history", whole.clone()).with_source(err)
        })
    }

    fn translate(&self, what: &'static str, path: &str, err: object_store::Error) -> Error {
        translate(what, &self.description, path, err)
    }

    pub(super) async fn put_new(&self, path: &str, bytes: Bytes, class: Option<&str>) -> Result<PutOutcome> {
        let key = self.key(path)?;
        let content = Content::of(&bytes);
        let give_up = Instant::now() + self.retry_for;
        let mut pause = Duration::from_millis(100);
        loop {
            let put =
                self.store.put_opts(&key, PutPayload::from(bytes.clone()), create_of_class(class)).await;
            let err = match put {
                Ok(_) => return Ok(PutOutcome::Created),
                Err(err) => err,
            };
            if let Some(outcome) = self.outcome_after(&err, path, &content).await? {
                return Ok(outcome);
            }
            let err = match err {
                // "Conflict" while another request on the object was under way, and now there is no object.
                object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                    Error::new(
                        ErrorKind::Unreachable,
                        "cannot put an object",
                        format!(
                            "{}/{path}: the store says that it exists, and does not show it",
                            self.description
                        ),
                    )
                }
                err => self.translate("cannot put an object", path, err),
            };
            if err.kind() != ErrorKind::Unreachable || Instant::now() >= give_up {
                return Err(err);
            }
            tracing::info!(error = %err, path, "trying again to put an object");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// After a request that failed: what stands at `path` decides. `None` where nothing does, or the failure was such that
    /// nothing can.
    async fn outcome_after(
        &self,
        err: &object_store::Error,
        path: &str,
        content: &Content,
    ) -> Result<Option<PutOutcome>> {
        use object_store::Error as Store;
        if matches!(
            err,
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } | Store::NotImplemented { .. }
        ) {
            return Ok(None);
        }
        match self.stands_at(path, content).await {
            Ok(true) => Ok(Some(PutOutcome::Created)),
            Ok(false) => Ok(Some(PutOutcome::AlreadyExists)),
            Err(read) if read.kind() == ErrorKind::NotFound => Ok(None),
            // The first error says more, unless the store had already said that the object exists.
            Err(read) if matches!(err, Store::AlreadyExists { .. } | Store::Precondition { .. }) => Err(read),
            Err(_) => Ok(None),
        }
    }

    /// Whether the object has this content.
    async fn stands_at(&self, path: &str, content: &Content) -> Result<bool> {
        if self.head(path).await? != content.bytes {
            return Ok(false);
        }
        let mut hash = Sha256::new();
        let mut stream = self.get_stream(path).await?;
        while let Some(chunk) = stream.try_next().await? {
            hash.update(&chunk);
        }
        Ok(ContentHash(hash.finalize().into()) == content.sha256)
    }

    pub(super) async fn check_put_if_absent(&self, path: &str, bytes: Bytes) -> Result<()> {
        let key = self.key(path)?;
        match self.store.put_opts(&key, PutPayload::from(bytes), create()).await {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(())
            }
            Err(err) => Err(self.translate("cannot put an object", path, err)),
            Ok(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "not a place for a history",
                format!(
                    "{}: the store replaces objects although it is told not to (it ignores `If-None-Match: *`), so two \
                     writers could destroy each other's commits; upgrade it or choose another",
                    self.description
                ),
            )),
        }
    }

    /// Puts an object, puts another in its place, which must be refused, and takes it away again. Gives by how much the store's
    /// clock is ahead of this machine's, in seconds.
    pub(super) async fn probe(&self, path: &str) -> Result<Option<i64>> {
        let key = self.key(path)?;
        let failed = |err| self.translate("cannot put an object", path, err);
        self.store.put_opts(&key, PutPayload::from_static(b"1"), create()).await.map_err(failed)?;
        let here = Timestamp::now().0 / 1_000_000;
        let there = self.store.head(&key).await.ok().map(|meta| meta.last_modified.timestamp());
        let refused = self.check_put_if_absent(path, Bytes::from_static(b"2")).await;
        self.delete(path).await?;
        refused.map(|()| there.map(|there| there - here))
    }

    pub(super) fn spool_file(&self) -> Result<NamedTempFile> {
        let directory = self.spool_directory();
        let failed = |err| Error::from_io("cannot create a spool file", &directory, err);
        if self.spool.is_some() {
            std::fs::create_dir_all(&directory).map_err(failed)?;
        }
        locked_file(&directory, &format!("{SPOOL_PREFIX}{}-", self.instance)).map_err(failed)
    }

    fn spool_directory(&self) -> PathBuf {
        self.spool.clone().unwrap_or_else(std::env::temp_dir)
    }

    pub(super) async fn remove_stale_spool(&self) -> Result<usize> {
        // The system's temporary directory is shared with other captures.
        let Some(directory) = self.spool.clone() else { return Ok(0) };
        let ours = format!("{SPOOL_PREFIX}{}-", self.instance);
        blocking(move || {
            remove_files_of_others(&directory, |name| {
                name.starts_with(SPOOL_PREFIX) && !name.starts_with(&ours)
            })
        })
        .await
    }

    pub(super) async fn upload(
        &self,
        sealed: &mut Sealed,
        path: &str,
        class: Option<&str>,
    ) -> Result<PutOutcome> {
        let file = sealed.path()?.to_owned();
        let outcome = if sealed.bytes() <= self.single_put {
            let bytes = blocking(move || {
                std::fs::read(&file).map_err(|err| Error::from_io("cannot read a spool file", &file, err))
            })
            .await?;
            self.put_new(path, bytes.into(), class).await?
        } else {
            let file = blocking(move || {
                File::open(&file).map_err(|err| Error::from_io("cannot read a spool file", &file, err))
            })
            .await?;
            self.upload_parts(Arc::new(file), sealed, path, class).await?
        };
        if outcome == PutOutcome::Created {
            sealed.file = None;
        }
        Ok(outcome)
    }

    async fn upload_parts(
        &self,
        file: Arc<File>,
        sealed: &Sealed,
        path: &str,
        class: Option<&str>,
    ) -> Result<PutOutcome> {
        let failed = |err| self.translate("cannot upload an object", path, err);
        // Spares the upload in the usual case; the completion decides.
        let content = Content { bytes: sealed.bytes(), sha256: sealed.sha256() };
        match self.stands_at(path, &content).await {
            Ok(true) => return Ok(PutOutcome::Created),
            Ok(false) => return Ok(PutOutcome::AlreadyExists),
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
        let key = self.key(path)?;
        let part = PART.max(content.bytes.div_ceil(9_000));
        let options = PutMultipartOptions { tags: tags(class), ..PutMultipartOptions::default() };
        let mut upload = self.store.put_multipart_opts(&key, options).await.map_err(failed)?;
        let sent = async {
            let mut in_flight = FuturesUnordered::new();
            let mut at = 0;
            while at < content.bytes {
                if in_flight.len() >= PARTS_IN_FLIGHT {
                    in_flight.try_next().await.map_err(failed)?;
                }
                let end = content.bytes.min(at + part);
                let bytes = read_part(Arc::clone(&file), at..end).await?;
                in_flight.push(upload.put_part(PutPayload::from(bytes)));
                at = end;
            }
            while in_flight.try_next().await.map_err(failed)?.is_some() {}
            Ok(())
        };
        let completed = match sent.await {
            Ok(()) => upload.complete().await,
            Err(err) => {
                abandon(upload.as_mut(), path).await;
                return Err(err);
            }
        };
        let Err(err) = completed else { return Ok(PutOutcome::Created) };
        let outcome = self.outcome_after(&err, path, &content).await?;
        if outcome != Some(PutOutcome::Created) {
            abandon(upload.as_mut(), path).await;
        }
        outcome.ok_or_else(|| failed(err))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Bytes> {
        let failed = |err| self.translate("cannot read an object", path, err);
        let found = self.store.get_opts(&self.key(path)?, GetOptions::default()).await.map_err(failed)?;
        found.bytes().await.map_err(failed)
    }

    pub(super) async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        let key = self.key(path)?;
        match self.store.get_range(&key, range).await {
            Ok(bytes) => Ok(bytes),
            Err(err) => {
                // A range beyond the end is answered with 416 by some stores, with what there is by others.
                let beyond = is_beyond(&err.to_string());
                let err = self.translate("cannot read an object", path, err);
                if beyond && err.kind() == ErrorKind::Io { Ok(Bytes::new()) } else { Err(err) }
            }
        }
    }

    pub(super) async fn get_stream(&self, path: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let (description, name) = (self.description.clone(), path.to_owned());
        let failed = move |err| translate("cannot read an object", &description, &name, err);
        let found = self.store.get_opts(&self.key(path)?, GetOptions::default()).await.map_err(&failed)?;
        Ok(found.into_stream().map_err(failed).boxed())
    }

    pub(super) async fn head(&self, path: &str) -> Result<u64> {
        let found = self.store.head(&self.key(path)?).await;
        found.map(|meta| meta.size).map_err(|err| self.translate("cannot look up an object", path, err))
    }

    pub(super) async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>> {
        let key = self.key(prefix)?;
        let found = match after {
            "" => self.store.list(Some(&key)),
            after => self.store.list_with_offset(Some(&key), &self.key(after)?),
        };
        let skip = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let found = found.try_filter_map(async |meta| {
            let path = meta.location.as_ref().get(skip..).filter(|path| super::check_path(path).is_ok());
            // Names that no object of a history can have are passed over: they are not ours.
            let modified = Timestamp(meta.last_modified.timestamp_micros());
            Ok(path.map(|path| Object { path: path.to_owned(), bytes: meta.size, modified }))
        });
        found.try_collect().await.map_err(|err| self.translate("cannot list objects", prefix, err))
    }

    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&self.key(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(err) => Err(self.translate("cannot remove an object", path, err)),
        }
    }
}

/// Variables by name. An empty one counts as unset, as in AWS' own tools.
fn environment(options: &StoreOptions) -> BTreeMap<String, String> {
    let mut variables = match &options.environment {
        Some(given) => given.clone(),
        None => std::env::vars_os()
            .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
            .collect(),
    };
    variables.retain(|_, value| !value.is_empty());
    variables
}

fn retry(options: &StoreOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
        max_retries: 20,
        retry_timeout: options.retry_for,
    }
}

/// Length and hash of what was to be put.
#[derive(Debug)]
struct Content {
    bytes: u64,
    sha256: ContentHash,
}

impl Content {
    fn of(bytes: &Bytes) -> Self {
        Self { bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX), sha256: ContentHash::of(bytes) }
    }
}

fn create() -> PutOptions {
    create_of_class(None)
}

fn create_of_class(class: Option<&str>) -> PutOptions {
    PutOptions { mode: PutMode::Create, tags: tags(class), ..PutOptions::default() }
}

fn tags(class: Option<&str>) -> TagSet {
    let mut tags = TagSet::default();
    if let Some(class) = class {
        tags.push(RETENTION_TAG, class);
    }
    tags
}

/// Parts of an upload that is not completed cost money until a rule of the bucket removes them.
async fn abandon(upload: &mut dyn object_store::MultipartUpload, path: &str) {
    if let Err(err) = upload.abort().await {
        tracing::warn!(error = %err, path, "cannot abandon an upload; its parts stay until the bucket's own rules remove them");
    }
}

async fn read_part(file: Arc<File>, range: Range<u64>) -> Result<Bytes> {
    blocking(move || {
        let mut buffer = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
        file.read_exact_at(&mut buffer, range.start).map_err(|err| {
            Error::new(ErrorKind::Io, "cannot read a spool file", err.to_string()).with_source(err)
        })?;
        Ok(buffer.into())
    })
    .await
}

/// Puts `If-None-Match: *` on the completion of multipart uploads, which the client does not offer for uploads, and `Content-MD5` on what is
/// put.
///
/// The headers are added after the signing: signature version 4 requires `host` and `x-amz-*` to be signed, no more.
#[derive(Debug)]
struct ConditionalCompletion;

impl HttpConnector for ConditionalCompletion {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        ReqwestConnector::default().connect(options).map(|client| HttpClient::new(Completing(client)))
    }
}

#[derive(Debug)]
struct Completing(HttpClient);

impl HttpService for Completing {
    fn call<'me, 'async_trait>(
        &'me self,
        mut request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'me: 'async_trait,
        Self: 'async_trait,
    {
        let completes = request.method().as_str() == "POST"
            && request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|pair| pair.starts_with("uploadId=")));
        if completes {
            request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        Box::pin(async move {
            // A bucket that locks each object takes none without it.
            if request.method().as_str() == "PUT" && !request.headers().contains_key("content-md5") {
                let sum = md5_of(request.body().clone()).await?;
                if let Ok(sum) = HeaderValue::from_str(&sum) {
                    request.headers_mut().insert("content-md5", sum);
                }
            }
            self.0.execute(request).await
        })
    }
}

/// The MD5 of a body, as `Content-MD5` has it (RFC 1864).
async fn md5_of(mut body: HttpRequestBody) -> Result<String, HttpError> {
    use md5::Digest as _;
    let mut sum = md5::Md5::new();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            sum.update(&bytes);
        }
    }
    Ok(BASE64.encode(sum.finalize()))
}

/// A store says so of a range beyond the end of an object. The error has the object's name in it, too, which may be anything.
fn is_beyond(error: &str) -> bool {
    ["status code: 416", "Range Not Satisfiable", "InvalidRange"].iter().any(|said| error.contains(said))
}
