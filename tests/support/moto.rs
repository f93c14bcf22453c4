//! An S3 server on this machine: moto's, which honours conditional puts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::bygone::Bygone;
use super::process::{Program, Running, eventually, free_port, python};
use super::scratch::{Scratch, tail};
use super::store::Store;

/// The bucket that is there.
pub(crate) const BUCKET: &str = "kept";

/// The server asks who reads an object, and believes it.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A running server with one empty bucket.
#[derive(Debug)]
pub(crate) struct Moto {
    // Dropped before its log.
    _server: Running,
    port: u16,
    _scratch: Scratch,
}

impl Moto {
    pub(crate) fn start() -> Self {
        let scratch = Scratch::new("moto");
        let port = free_port();
        let log = scratch.join("moto.log");
        let mut server = Program::new(moto_python())
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .start(&log);
        let up = eventually(Duration::from_secs(60), || {
            server.ended().is_some() || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(up && server.ended().is_none(), "moto does not start:\n{}", tail(&log, 3000));
        let made = Self { _server: server, port, _scratch: scratch };
        made.create_bucket();
        made.check_conditional_put();
        made
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables by which the usual AWS tools find the server.
    pub(crate) fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test-secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// A bygone that keeps its history under a prefix of the bucket.
    pub(crate) fn bygone(&self, source: String, prefix: &str) -> Bygone {
        let at_bucket = Bygone::new(source, format!("s3://{BUCKET}/{prefix}"));
        self.variables().iter().fold(at_bucket, |made, (name, value)| made.env(name, value))
    }

    /// What lies under a prefix of the bucket.
    pub(crate) fn store(&self, prefix: &str) -> Store {
        self.store_of(BUCKET, prefix)
    }

    /// The same of another bucket.
    pub(crate) fn store_of(&self, bucket: &str, prefix: &str) -> Store {
        Store::bucket(self.client(bucket), prefix)
    }

    fn client(&self, bucket: &str) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_bucket_name(bucket)
            .with_region("us-east-1")
            .with_access_key_id("test")
            .with_secret_access_key("test-secret")
            .build()
            .unwrap()
    }

    fn create_bucket(&self) {
        self.put(BUCKET, "", "");
    }

    /// A request to the server itself: `headers` are whole lines.
    pub(crate) fn put(&self, path: &str, headers: &str, body: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "PUT /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// The tags of an object of the bucket, as `key=value`.
    pub(crate) fn tags(&self, key: &str) -> Vec<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "GET /{BUCKET}/{key}?tagging HTTP/1.1\r\nHost: 127.0.0.1\r\n{SIGNED}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{key}: {answer}");
        let inside = |text: &str, tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>")).unwrap();
            rest.split_once(&format!("</{tag}>")).unwrap().0.to_owned()
        };
        let tags = answer.split("<Tag>").skip(1);
        tags.map(|tag| format!("{}={}", inside(tag, "Key"), inside(tag, "Value"))).collect()
    }

    /// A server that lets two writers put one object would prove nothing here.
    fn check_conditional_put(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = self.client(BUCKET);
        let probe = object_store::path::Path::from("probe");
        runtime.block_on(async {
            let create = || PutOptions::from(PutMode::Create);
            client.put_opts(&probe, "1".into(), create()).await.unwrap();
            let second = client.put_opts(&probe, "2".into(), create()).await;
            assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })), "{second:?}");
            client.delete(&probe).await.unwrap();
        });
    }
}

/// The Python that has moto.
/// The Python that has moto, and what moto needs: PyYAML, for one.
pub(crate) fn moto_python() -> PathBuf {
    let python = python("BYGONE_TEST_PYTHON", "venv");
    assert!(python.exists(), "{} is missing: scripts/install sets it up", python.display());
    python
}
