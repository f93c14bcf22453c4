//! What the scenarios stand on: servers, the binary under test, and the judges.

pub(crate) mod azurite;
pub(crate) mod bygone;
pub(crate) mod clock;
pub(crate) mod comparison;
pub(crate) mod disk;
pub(crate) mod draft;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod link;
pub(crate) mod majors;
pub(crate) mod moto;
pub(crate) mod oracle;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod rendering;
#[expect(dead_code, reason = "the tests of the store use all of it")]
#[path = "../../sink/tests/support/proxy.rs"]
pub(crate) mod s3_proxy;
pub(crate) mod scratch;
pub(crate) mod store;
pub(crate) mod terminal;
pub(crate) mod workload;
