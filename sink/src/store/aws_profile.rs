//! AWS' profile files: `~/.aws/credentials` and `~/.aws/config`.
//!
//! See "Configuration and credential file settings" in the AWS CLI's user guide. Read are the keys of long-lived and
//! temporary credentials, `region` and `endpoint_url`; what needs another program or a login (`credential_process`,
//! `sso_*`, `role_arn`) is named in an error that says how to go on.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// What the files say of one profile.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: String,
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key: Option<String>,
    pub(super) session_token: Option<String>,
    pub(super) region: Option<String>,
    pub(super) endpoint_url: Option<String>,
    /// The setting by which credentials would have to be got in a way that is not supported.
    unsupported: Option<String>,
}

impl fmt::Debug for Profile {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Profile {
    /// Reads the profile that the environment names (`AWS_PROFILE`, else `default`) from the files that it names.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] where `AWS_PROFILE` names a profile that is nowhere, or a file cannot be read.
    pub(super) fn read(env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let named = env("AWS_PROFILE").or_else(|| env("AWS_DEFAULT_PROFILE"));
        let name = named.clone().unwrap_or_else(|| "default".to_owned());
        let home = env("HOME").map(PathBuf::from);
        let file = |variable: &str, default: &str| {
            env(variable)
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| home.join(".aws").join(default)))
        };
        let credentials = read_file(file("AWS_SHARED_CREDENTIALS_FILE", "credentials"))?;
        let config = read_file(file("AWS_CONFIG_FILE", "config"))?;

        let mut found = false;
        let mut values = BTreeMap::new();
        // The credentials file wins where both say something.
        for (text, is_config) in [(&config, true), (&credentials, false)] {
            if let Some(section) = section(text, &name, is_config) {
                found = true;
                values.extend(section);
            }
        }
        if let (Some(name), false) = (named, found) {
            let detail = format!("AWS_PROFILE names {name:?}, which neither of AWS' profile files holds");
            return Err(Error::new(ErrorKind::Configuration, "no such AWS profile", detail));
        }
        let mut take = |key: &str| values.remove(key).filter(|value| !value.is_empty());
        Ok(Self {
            name,
            access_key_id: take("aws_access_key_id"),
            secret_access_key: take("aws_secret_access_key"),
            session_token: take("aws_session_token"),
            region: take("region"),
            endpoint_url: take("endpoint_url"),
            unsupported: values
                .into_keys()
                .find(|key| key.starts_with("sso_") || key == "credential_process" || key == "role_arn"),
        })
    }

    /// Key, secret and session token, where the profile holds keys.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for half a pair, and for profiles that get credentials in another way.
    pub(super) fn keys(&self) -> Result<Option<(&str, &str, Option<&str>)>> {
        let bad =
            |what: String| Error::new(ErrorKind::Configuration, "AWS profile without usable keys", what);
        match (&self.access_key_id, &self.secret_access_key, &self.unsupported) {
            (Some(key), Some(secret), _) => Ok(Some((key, secret, self.session_token.as_deref()))),
            (None, None, None) => Ok(None),
            (None, None, Some(setting)) => Err(bad(format!(
                "profile {0:?} uses {setting}, which is not supported; run \
                 `eval \"$(aws configure export-credentials --profile {0} --format env)\"` first",
                self.name
            ))),
            _ => Err(bad(format!(
                "profile {:?} needs both aws_access_key_id and aws_secret_access_key",
                self.name
            ))),
        }
    }
}

fn read_file(path: Option<PathBuf>) -> Result<String> {
    let Some(path) = path else { return Ok(String::new()) };
    match std::fs::read(Path::new(&path)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(err)
            if matches!(err.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(String::new())
        }
        Err(err) => {
            let detail = format!("{}: {err}", path.display());
            Err(Error::new(ErrorKind::Configuration, "cannot read an AWS profile file", detail)
                .with_source(err))
        }
    }
}

/// The settings of a profile's section: `[name]`, in the config file `[profile name]` (but `[default]`).
fn section(text: &str, profile: &str, is_config: bool) -> Option<BTreeMap<String, String>> {
    let mut inside = false;
    let mut values = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = trimmed.strip_prefix('[') {
            let header = header.split_once(']').map_or(header, |(header, _)| header).trim();
            let prefixed = header.strip_prefix("profile").filter(|rest| rest.starts_with([' ', '\t']));
            let name = match prefixed {
                Some(name) if is_config => name.trim(),
                _ if !is_config || header == "default" => header,
                _ => {
                    inside = false;
                    continue;
                }
            };
            inside = name.trim_matches('"') == profile;
            if inside {
                values.get_or_insert_with(BTreeMap::new);
            }
        } else if inside && !line.starts_with([' ', '\t']) {
            // An indented line belongs to a nested setting (`s3 =`), none of which is used here.
            if let (Some(values), Some((key, value))) = (values.as_mut(), trimmed.split_once('=')) {
                let value = value.split(" #").next().unwrap_or_default();
                values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(credentials: &str, config: &str, profile: Option<&str>) -> Result<Profile> {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
        std::fs::write(home.path().join(".aws/config"), config).unwrap();
        let home = home.path().to_str().unwrap().to_owned();
        let result = Profile::read(|variable| match variable {
            "HOME" => Some(home.clone()),
            "AWS_PROFILE" => profile.map(str::to_owned),
            _ => None,
        });
        drop(home);
        result
    }

    #[test]
    fn keys_come_from_one_file_and_the_region_from_the_other() {
        let credentials = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=s=/+\n\n[work]\naws_access_key_id=B\n\
                           aws_secret_access_key = t\naws_session_token = u\n";
        let config = "[default]\nregion = eu-west-1\ns3 =\n  endpoint_url = http://nested\n[profile work]\n\
                      endpoint_url = http://localhost:9000 # minio\n[profile workshop]\nregion=x\n";

        let default = read(credentials, config, None).unwrap();
        let work = read(credentials, config, Some("work")).unwrap();

        assert_eq!(default.keys().unwrap(), Some(("A", "s=/+", None)));
        assert_eq!((default.region.as_deref(), default.endpoint_url), (Some("eu-west-1"), None));
        assert_eq!(work.keys().unwrap(), Some(("B", "t", Some("u"))));
        assert_eq!((work.region, work.endpoint_url.as_deref()), (None, Some("http://localhost:9000")));
    }

    #[test]
    fn a_profile_that_is_named_must_exist() {
        assert_eq!(read("[default]\n", "", None).unwrap().keys().unwrap(), None);
        assert_eq!(read("", "", None).unwrap().keys().unwrap(), None);
        assert_eq!(read("[default]\n", "", Some("gone")).unwrap_err().kind(), ErrorKind::Configuration);
        // `[work]` counts in the credentials file alone.
        assert!(read("", "[work]\nregion=x\n", Some("work")).is_err());
    }

    #[test]
    fn what_is_not_supported_is_said_with_the_way_out() {
        let sso = read("", "[profile s]\nsso_session = x\nregion=y\n", Some("s")).unwrap();
        assert!(sso.keys().unwrap_err().to_string().contains("export-credentials --profile s"));
        let half = read("[default]\naws_access_key_id=A\n", "", None).unwrap();
        assert_eq!(half.keys().unwrap_err().kind(), ErrorKind::Configuration);
    }

    #[test]
    fn secrets_are_not_printed() {
        let profile =
            read("[default]\naws_access_key_id=A\naws_secret_access_key=hushhush\n", "", None).unwrap();
        assert!(!format!("{profile:?}").contains("hushhush"));
    }

    #[test]
    fn odd_files_do_no_harm() {
        for text in ["[", "]", "[default", "=", "[default]\n=", "[profile]\n[]\n[ ]", "\u{feff}[default]\n\0"]
        {
            assert!(read(text, text, None).is_ok(), "{text:?}");
        }
    }
}
