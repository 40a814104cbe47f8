//! A configuration file. What is wrong is said with its place in the file; what is accepted is
//! within bounds and survives being printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::config::{ConfigError, Loaded, Origin, Sources, load};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A file in memory, so that nothing is left behind.
fn file() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        File::from(rustix::fs::memfd_create("config", flags).expect("memfd_create"))
    })
}

fn load_text(text: &[u8]) -> Result<Loaded, Vec<ConfigError>> {
    let file = file();
    file.set_len(0).expect("truncate");
    file.write_all_at(text, 0).expect("write");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    load(&Sources {
        file: Some(path),
        ..Sources::default()
    })
}

fuzz_target!(|text: &[u8]| {
    let loaded = match load_text(text) {
        Ok(loaded) => loaded,
        Err(errors) => {
            assert!(!errors.is_empty());
            let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
            for error in &errors {
                assert!(!error.message.is_empty());
                match error.origin {
                    // Line 0: the file as a whole.
                    Origin::File { line, column, .. } => {
                        assert!(line <= lines, "{error}");
                        assert!(line == 0 || column > 0, "{error}");
                    }
                    // A relation that a value of the file breaks together with defaults.
                    Origin::Default | Origin::Raised => assert!(error.key.is_some(), "{error}"),
                    _ => panic!("not from the file: {error}"),
                }
            }
            return;
        }
    };
    let config = loaded.config.clone();
    assert_eq!(config.clone().check().as_ref(), Ok(&config));
    assert_eq!(
        loaded.to_json()["settings"]
            .as_object()
            .map(serde_json::Map::len),
        Some(ringwire::config::settings::SETTINGS.len())
    );
    assert_eq!(
        loaded.to_json()["channels"].as_array().map(Vec::len),
        Some(config.channels.len())
    );
    let printed = loaded.to_toml();
    match load_text(printed.as_bytes()) {
        Ok(again) => {
            assert_eq!(again.config, config);
            assert_eq!(again.notes, [""; 0], "nothing is left to raise");
        }
        Err(errors) => panic!("{errors:?}\n{printed}"),
    }
});
