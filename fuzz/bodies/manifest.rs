//! `bygone.json`.

use bygone_sink::log::Manifest;

pub(crate) fn run(data: &[u8]) {
    let Ok(manifest) = Manifest::from_bytes(data) else { return };
    let bytes = manifest.to_bytes().expect("a manifest that was just read");
    assert_eq!(Manifest::from_bytes(&bytes).expect("a manifest that was just written"), manifest);
}
