//! Connection settings: a URL or a `key=value` string.

use bygone_replication::conninfo::{ConnectOptions, Environment};

const PASSWORD: &str = "0f-all-the-passwords-this-one";

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let variables = [("PGPASSWORD".to_owned(), PASSWORD.to_owned())].into();
    let environment = Environment { variables, home: None, user: Some("ann".to_owned()) };
    match ConnectOptions::parse_in(text, &environment) {
        Ok(options) => {
            assert!(!options.hosts().is_empty());
            for shown in [options.redacted(), format!("{options:?}")] {
                assert!(!shown.contains(PASSWORD));
            }
        }
        Err(error) => assert!(!error.to_string().contains(PASSWORD)),
    }
}
