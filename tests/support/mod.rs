//! What the scenarios stand on: servers, the binary under test, and the judges.

pub(crate) mod bygone;
pub(crate) mod comparison;
pub(crate) mod draft;
pub(crate) mod history;
pub(crate) mod moto;
pub(crate) mod oracle;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod rendering;
pub(crate) mod scratch;
pub(crate) mod store;
pub(crate) mod workload;
