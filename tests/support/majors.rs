//! The majors of PostgreSQL that bygone supports, as far as this machine has their servers.
//!
//! `scripts/install versions` fetches what is missing; `scripts/postgres-majors` knows the same places, and `make test`
//! says at its end which were left out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::postgres::Postgres;

/// The directory of a major's programs, where it is installed.
pub(crate) fn programs(major: u32) -> Option<PathBuf> {
    let fetched = PathBuf::from(format!("/var/tmp/bygone-test-postgres-{}", geteuid().as_raw()));
    let own = fs::metadata(&fetched).is_ok_and(|found| found.uid() == geteuid().as_raw());
    let places = [
        Some(Path::new("/usr/lib/postgresql").join(major.to_string()).join("bin")),
        own.then(|| fetched.join(major.to_string()).join("bin")),
    ];
    let complete = |at: &PathBuf| at.join("postgres").exists() && at.join("initdb").exists();
    places.into_iter().flatten().find(complete)
}

/// Calls `scenario` with a fresh server of the major; where the machine has none, says so instead.
pub(crate) fn on(major: u32, settings: &[(&str, &str)], scenario: impl FnOnce(Postgres)) {
    match programs(major) {
        Some(programs) => scenario(Postgres::of(&programs, settings)),
        None => eprintln!("skipped: PostgreSQL {major} is not on this machine (scripts/install versions)"),
    }
}

/// The named functions as tests of each of the named majors, as `v14::name`; each takes a server.
macro_rules! on_each_major {
    ($settings:expr, [$($major:literal as $module:ident),+], $scenarios:tt) => {
        $($crate::support::majors::on_each_major!(@major $settings, $major, $module, $scenarios);)+
    };
    (@major $settings:expr, $major:literal, $module:ident, [$($scenario:ident),+]) => {
        mod $module {
            $(#[test]
            fn $scenario() {
                $crate::support::majors::on($major, $settings, super::$scenario);
            })+
        }
    };
}
pub(crate) use on_each_major;
