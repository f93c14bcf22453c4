//! A server that speaks as Azure's blob storage does, on this machine: Microsoft's own emulator.

use std::net::TcpStream;
use std::time::Duration;

use object_store::azure::MicrosoftAzureBuilder;

use super::bygone::Bygone;
use super::process::{Program, Running, eventually, free_port, installed_in};
use super::scratch::{Scratch, tail};
use super::store::Store;

/// The container that is there.
const CONTAINER: &str = "kept";
/// The account and the key that every such server has.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes the container: a request of the REST API, signed with the shared key.
const CREATE: &str = r#"
import base64, email.utils, hashlib, hmac, http.client, sys
port, account, key, container = sys.argv[1:]
date = email.utils.formatdate(usegmt=True)
path = f"/{account}/{container}"
signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2021-08-06\n/{account}{path}\nrestype:container"
mac = base64.b64encode(hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()).decode()
connection = http.client.HTTPConnection("127.0.0.1", int(port))
connection.request("PUT", path + "?restype=container", headers={"x-ms-date": date, "x-ms-version": "2021-08-06",
    "Authorization": f"SharedKey {account}:{mac}", "Content-Length": "0"})
answer = connection.getresponse()
sys.exit(0 if answer.status == 201 else f"{answer.status} {answer.read()}")
"#;

/// A running server with one empty container.
#[derive(Debug)]
pub(crate) struct Azurite {
    // Dropped before its data.
    _server: Running,
    port: u16,
    _scratch: Scratch,
}

impl Azurite {
    /// None, with a word, where there is no such server on this machine.
    pub(crate) fn start() -> Option<Self> {
        let program = installed_in("azurite").join("node_modules/.bin/azurite-blob");
        if !program.exists() {
            eprintln!("left out: Azurite is not installed (npm): scripts/install azure");
            return None;
        }
        let scratch = Scratch::new("azurite");
        let port = free_port();
        let log = scratch.join("azurite.log");
        let location = scratch.join("data").display().to_string();
        let mut server = Program::new(program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location", &location])
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
            .start(&log);
        let up = eventually(Duration::from_secs(60), || {
            server.ended().is_some() || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(up && server.ended().is_none(), "azurite does not start:\n{}", tail(&log, 3000));
        let mut create = Program::new("python3")
            .args(["-c", CREATE, &port.to_string(), ACCOUNT, KEY, CONTAINER])
            .start(&scratch.join("create.log"));
        let created = create.wait(Duration::from_secs(30));
        assert!(
            created.is_some_and(|status| status.success()),
            "{}",
            tail(&scratch.join("create.log"), 3000)
        );
        Some(Self { _server: server, port, _scratch: scratch })
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// A bygone that keeps its history under a prefix of the container.
    pub(crate) fn bygone(&self, source: String, prefix: &str) -> Bygone {
        Bygone::new(source, format!("az://{CONTAINER}/{prefix}"))
            .env("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
            .env("AZURE_STORAGE_ACCOUNT_KEY", KEY)
            .env("AZURE_ENDPOINT", &self.endpoint())
    }

    /// What lies under a prefix of the container.
    pub(crate) fn store(&self, prefix: &str) -> Store {
        let client = MicrosoftAzureBuilder::new()
            .with_account(ACCOUNT)
            .with_access_key(KEY)
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_container_name(CONTAINER)
            .build()
            .unwrap();
        Store::bucket(client, prefix)
    }
}
