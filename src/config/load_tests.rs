use std::io::Write;

use super::super::limits;
use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn flag(key: &'static str, values: &[&str]) -> FlagValue {
    FlagValue {
        key,
        flag: format!("--{}", settings::find::<Config>(key).unwrap().flag.unwrap()),
        values: values.iter().map(ToString::to_string).collect(),
    }
}

fn load_text(text: &str) -> Result<Loaded, Vec<String>> {
    let file = file(text);
    let sources = Sources {
        file: Some(file.path().to_owned()),
        ..Sources::default()
    };
    let name = format!("{}:", file.path().display());
    load(&sources).map_err(|errors| {
        errors
            .iter()
            .map(|error| error.to_string().replace(&name, ""))
            .collect()
    })
}

fn load_environment(variables: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    load(&Sources {
        environment: environment(variables),
        ..Sources::default()
    })
    .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn load_flag(key: &'static str, value: &str) -> Result<Loaded, Vec<String>> {
    load(&Sources {
        flags: vec![flag(key, &[value])],
        ..Sources::default()
    })
    .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn nothing_gives_the_defaults() {
    let loaded = load(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.config.clone().check(), Ok(loaded.config.clone()));
    assert!(loaded.notes.is_empty());
    assert_eq!(*loaded.origin("listen"), Origin::Default);
}

#[test]
fn a_whole_file_is_read() {
    let loaded = load_text(
        "listen = [\"0.0.0.0:80\", \"unix:/run/a.sock\"]\n\
         shards = 6\n\
         cores = \"0,2-5\"\n\
         http = { websocket_paths = [\"/chat\"], demo_page = false }\n\
         heartbeat.interval_ms = 0\n\
         [timeouts]\n\
         drain_ms = \"1m 30s\"\n\
         [client]\n\
         connections_per_shard = \"auto\"\n\
         message_bytes = \"64KiB\"\n\
         [ring]\n\
         entries = 0x100\n\
         [log]\n\
         filter = \"ringwire::shard=debug,warn\"\n\
         json = true\n",
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!(config.listen.len(), 2);
    assert_eq!(
        (config.shards, config.cores.as_deref()),
        (Some(6), Some(&[0, 2, 3, 4, 5][..]))
    );
    assert_eq!(
        (
            config.http.websocket_paths.as_slice(),
            config.http.demo_page
        ),
        (&["/chat".into()][..], false)
    );
    assert_eq!(
        (config.heartbeat.interval_ms, config.timeouts.drain_ms),
        (0, 90_000)
    );
    assert_eq!(
        (
            config.client.connections_per_shard,
            config.client.message_bytes
        ),
        (None, 65_536)
    );
    assert_eq!((config.ring.entries, config.log.json), (256, true));
    assert!(matches!(
        loaded.origin("shards"),
        Origin::File {
            line: 2,
            column: 10,
            ..
        }
    ));
    assert!(!config.echo_enabled());
}

#[test]
fn one_address_needs_no_list_and_cores_may_be_numbers() {
    let config = load_text("listen = \"[::1]:1\"\ncores = [3, \"0-1\"]")
        .unwrap()
        .config;
    assert_eq!(config.listen, ["[::1]:1".parse().unwrap()]);
    assert_eq!(config.cores, Some(vec![3, 0, 1]));
    assert_eq!(load_text("cores = 2").unwrap().config.cores, Some(vec![2]));
    assert!(config.echo_enabled());
}

#[test]
fn all_mistakes_of_a_file_are_found_with_their_places() {
    let errors = load_text(
        "listen = [\"127.0.0.1:9000\", \"localhost:1\", \"127.0.0.1:9000\"]\n\
         shard = 4\n\
         interval_ms = 5\n\
         cores = \"0,9999\"\n\
         \n\
         [heartbeat]\n\
         intervall_ms = 5\n\
         interval_ms = 10\n\
         timeout_ms = -1\n\
         shards = 3\n\
         [tiemouts]\n\
         drain_ms = 5\n\
         [http]\n\
         websocket_paths = [\"ws\", \"/a b\", \"/echo\", \"/x\", \"/x\"]\n\
         demo_page = \"ja\"\n\
         [ring]\n\
         entries = 500\n\
         wait_us = 1.5\n\
         nonsense = 1\n\
         [log]\n\
         filter = \"ringwire=loud\"\n",
    )
    .unwrap_err();
    let expected = [
        ("1:29: listen", "127.0.0.1:1 or [::1]:1"),
        ("2:1: shard", "did you mean shards?"),
        ("3:1: interval_ms", "belongs in [heartbeat]"),
        ("4:9: cores", "9999 is above"),
        ("7:1: heartbeat.intervall_ms", "did you mean interval_ms?"),
        (
            "8:15: heartbeat.interval_ms",
            "10 ms is not allowed; allowed: 0 (no pings) or 1 s to 1 h",
        ),
        ("9:14: heartbeat.timeout_ms", "negative"),
        ("10:1: heartbeat.shards", "at the top"),
        ("11:2: tiemouts", "did you mean [timeouts]?"),
        ("14:20: http.websocket_paths", "write \"/ws\""),
        ("14:26: http.websocket_paths", "no spaces"),
        ("14:34: http.websocket_paths", "taken by the server"),
        ("14:49: http.websocket_paths", "twice"),
        ("15:13: http.demo_page", "allowed: true or false"),
        ("17:11: ring.entries", "a power of two from 64 to 32768"),
        ("18:11: ring.wait_us", "the float 1.5"),
        ("19:1: ring.nonsense", "config reference"),
        ("21:10: log.filter", "not a filter"),
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, (place, words)) in errors.iter().zip(expected) {
        assert!(
            error.starts_with(place) && error.contains(words),
            "{error}\nis not\n{place} … {words}"
        );
    }
}

#[test]
fn numbers_beyond_every_bound_are_shown_as_written() {
    for (text, expected) in [
        (
            "99999999999999999999999",
            "99999999999999999999999 is too large; allowed: 1 to 1024",
        ),
        ("0xffffffffffffffffffff", " is too large; allowed"),
        (
            "-99999999999999999999999",
            "-99999999999999999999999 is negative; allowed",
        ),
        (
            "18446744073709551615",
            "18446744073709551615 is not allowed; allowed",
        ),
        ("-0", "allowed: 1 to 1024"),
    ] {
        let errors = load_text(&format!("shards = {text}")).unwrap_err();
        assert!(errors[0].contains(expected), "{errors:?}");
    }
    let errors = load_text("client.channel_name_bytes = 0").unwrap_err();
    assert!(errors[0].contains("allowed: 1 byte to 1 KiB"), "{errors:?}");
}

#[test]
fn duplicates_in_listen_are_found_apart_from_port_zero() {
    let errors = load_text("listen = [\"127.0.0.1:9\",\n \"127.0.0.1:9\"]").unwrap_err();
    assert_eq!(errors, ["2:2: listen: 127.0.0.1:9 is listed twice"]);
    assert_eq!(
        load_text("listen = [\"[::1]:0\", \"[::1]:0\"]")
            .unwrap()
            .config
            .listen
            .len(),
        2
    );
    assert!(load_text("listen = []").unwrap_err()[0].contains("at least one"));
    let many: Vec<String> = (1..=17)
        .map(|port| format!("\"127.0.0.1:{port}\""))
        .collect();
    assert!(
        load_text(&format!("listen = [{}]", many.join(","))).unwrap_err()[0].contains("at most 16")
    );
}

#[test]
fn syntax_errors_have_a_place_and_hide_nothing_else() {
    let errors = load_text("shards = 1\nlisten = [\n[http\n").unwrap_err();
    assert!(
        errors.iter().all(|error| error.contains("not TOML")),
        "{errors:#?}"
    );
    assert!(
        errors[0].starts_with("2:") || errors[0].starts_with("3:"),
        "{errors:#?}"
    );
    let errors = load_text("shards = 1\nshards = 2\n").unwrap_err();
    assert!(errors[0].starts_with("2:1: not TOML"), "{errors:#?}");
    let errors = load_text("http = 5\nlisten.x = 1\n").unwrap_err();
    assert!(errors[0].contains("write [http] above"), "{errors:#?}");
    assert!(
        errors[1].contains("a section is not what this setting takes"),
        "{errors:#?}"
    );
}

#[test]
fn columns_count_characters() {
    let errors = load_text("# ü\nhttp.websocket_paths = [\"/é\"]").unwrap_err();
    assert!(errors[0].starts_with("2:25: "), "{errors:#?}");
    assert_eq!(position("aé\nüx", 0), (1, 1));
    assert_eq!(position("aé\nüx", "aé\nü".len()), (2, 2));
    assert_eq!(position("x", 100), (1, 2));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let sources = Sources {
        file: Some("/nonexistent/ringwire.toml".into()),
        ..Sources::default()
    };
    let errors = load(&sources).unwrap_err();
    assert!(
        errors[0]
            .to_string()
            .starts_with("/nonexistent/ringwire.toml: cannot be read"),
        "{errors:?}"
    );
    let large = file(&"#".repeat(limits::MAX_CONFIG_FILE_BYTES as usize + 1));
    let sources = Sources {
        file: Some(large.path().to_owned()),
        ..Sources::default()
    };
    assert!(
        load(&sources).unwrap_err()[0]
            .message
            .contains("larger than 1 MiB")
    );
    let mut binary = tempfile::NamedTempFile::new().unwrap();
    binary.write_all(b"shards = 1\n# \xff").unwrap();
    let sources = Sources {
        file: Some(binary.path().to_owned()),
        ..Sources::default()
    };
    assert!(
        load(&sources).unwrap_err()[0]
            .to_string()
            .ends_with(":2:3: is not UTF-8 from here on")
    );
}

#[test]
fn the_environment_sets_everything_and_unknown_names_are_errors() {
    let loaded = load_environment(&[
        ("RINGWIRE_LISTEN", "127.0.0.1:9000, [::1]:9000"),
        ("RINGWIRE_HEARTBEAT_INTERVAL_MS", "20000"),
        ("RINGWIRE_CLIENT_MESSAGE_BYTES", "2MiB"),
        ("RINGWIRE_HTTP_ECHO", "auto"),
        ("RINGWIRE_LOG_JSON", "1"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!(loaded.config.listen.len(), 2);
    assert_eq!(loaded.config.heartbeat.interval_ms, 20_000);
    assert!(loaded.config.log.json);
    assert_eq!(loaded.origin("log.json").to_string(), "RINGWIRE_LOG_JSON");

    let errors = load_environment(&[
        ("RINGWIRE_HEARTBEAT_INTERVALL_MS", "1"),
        ("RINGWIRE_LISTEN", ""),
        ("RINGWIRE_SHARDS", "many"),
        ("RINGWIRE_XYZZY", "1"),
    ])
    .unwrap_err();
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert!(
        errors[0].contains("did you mean RINGWIRE_HEARTBEAT_INTERVAL_MS?"),
        "{errors:#?}"
    );
    assert!(
        errors[1].starts_with("RINGWIRE_LISTEN: is empty"),
        "{errors:#?}"
    );
    assert!(errors[2].contains("1 to 1024"), "{errors:#?}");
    assert!(errors[3].contains("unset it"), "{errors:#?}");

    let errors = load_environment(&[
        ("RINGWIRE_CLIENT_CHANNELS", "99999999999999999999999"),
        ("RINGWIRE_CLIENT_MESSAGE_BYTES", "99999999999EiB"),
        ("RINGWIRE_HTTP_DEMO_PAGE", "maybe"),
        ("RINGWIRE_HTTP_ECHO", "maybe"),
    ])
    .unwrap_err();
    let expected = [
        "RINGWIRE_CLIENT_CHANNELS: client.channels: \"99999999999999999999999\" is too large; allowed: 1 to 65536",
        "RINGWIRE_CLIENT_MESSAGE_BYTES: client.message_bytes: \"99999999999EiB\" is too large; allowed: 1 KiB to \
         256 MiB",
        "RINGWIRE_HTTP_DEMO_PAGE: http.demo_page: \"maybe\" is not allowed; allowed: true, yes, on or 1; false, no, \
         off or 0",
        "RINGWIRE_HTTP_ECHO: http.echo: \"maybe\" is not allowed; allowed: true, yes, on or 1; false, no, off or 0; \
         auto",
    ];
    assert_eq!(errors, expected);
    for (text, on) in [("True", true), ("YES", true), ("off", false), ("0", false)] {
        let loaded = load_environment(&[("RINGWIRE_HTTP_ECHO", text)]).unwrap();
        assert_eq!(loaded.config.http.echo, Some(on));
    }
}

#[test]
fn the_environment_can_name_the_file_and_a_flag_names_another() {
    let one = file("shards = 1");
    let two = file("shards = 2");
    let mut sources = Sources {
        environment: environment(&[("RINGWIRE_CONFIG", one.path().to_str().unwrap())]),
        ..Sources::default()
    };
    assert_eq!(load(&sources).unwrap().config.shards, Some(1));
    sources.file = Some(two.path().to_owned());
    assert_eq!(load(&sources).unwrap().config.shards, Some(2));
}

#[test]
fn flags_take_units_and_need_them_for_times() {
    assert_eq!(
        load_flag("heartbeat.interval_ms", "25s")
            .unwrap()
            .config
            .heartbeat
            .interval_ms,
        25_000
    );
    assert_eq!(
        load_flag("heartbeat.interval_ms", "0")
            .unwrap()
            .config
            .heartbeat
            .interval_ms,
        0
    );
    assert_eq!(
        load_flag("client.message_bytes", "64KiB")
            .unwrap()
            .config
            .client
            .message_bytes,
        65_536
    );
    assert_eq!(
        load_flag("client.message_bytes", "65_536")
            .unwrap()
            .config
            .client
            .message_bytes,
        65_536
    );
    assert_eq!(
        load_flag("ring.min_wait_us", "200")
            .unwrap()
            .config
            .ring
            .min_wait_us,
        200
    );
    assert_eq!(load_flag("shards", "auto").unwrap().config.shards, None);
    for (key, value, words) in [
        ("heartbeat.interval_ms", "25", "write 25s or 25ms"),
        (
            "heartbeat.interval_ms",
            "1500us",
            "whole number of milliseconds",
        ),
        ("heartbeat.interval_ms", "soon", "500ms or 1m 30s"),
        (
            "heartbeat.interval_ms",
            "99999999999999999999999s",
            "allowed",
        ),
        ("client.message_bytes", "big", "64KiB or 1MiB"),
        (
            "client.message_bytes",
            "99999999999999999999999",
            "allowed: 1 KiB to 256 MiB",
        ),
        ("shards", "-1", "negative"),
        ("shards", "0", "1 to 1024"),
        ("shards", "2.5", "whole number"),
        ("cores", "", "empty"),
    ] {
        let errors = load_flag(key, value).unwrap_err();
        assert!(
            errors[0].starts_with("--") && errors[0].contains(words),
            "{errors:?}"
        );
    }
}

#[test]
fn what_holds_a_message_is_raised_unless_both_were_set() {
    let loaded = load_text("client.message_bytes = \"2MiB\"").unwrap();
    assert_eq!(loaded.config.client.outbox_bytes, (2 << 20) + (64 << 10));
    assert_eq!(*loaded.origin("client.outbox_bytes"), Origin::Raised);
    assert_eq!(loaded.notes.len(), 1);
    let loaded = load_text("client.outbox_bytes = \"256KiB\"").unwrap();
    assert_eq!(loaded.config.client.outbox_bytes, (1 << 20) + (64 << 10));
    assert!(
        loaded.notes[0].contains("instead of 256 KiB"),
        "{:?}",
        loaded.notes
    );
    let loaded = load_text("client.message_bytes = \"256MiB\"").unwrap();
    assert_eq!(
        loaded.config.client.mesh_pending_bytes,
        (256 << 20) + (64 << 10)
    );

    let file = file("client.message_bytes = \"2MiB\"");
    let errors = load(&Sources {
        file: Some(file.path().to_owned()),
        flags: vec![flag("client.outbox_bytes", &["1MiB"])],
        ..Sources::default()
    })
    .unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].origin,
        Origin::Flag {
            flag: "--outbox-limit".into()
        }
    );
    assert!(
        errors[0].message.contains("raise it to 2162688"),
        "{}",
        errors[0]
    );
    // What is wrong by itself is not judged against the default of the other.
    let errors =
        load_text("client.message_bytes = 1\nclient.outbox_bytes = \"100KiB\"").unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:#?}");
}

#[test]
fn the_ring_wants_enough_completions() {
    let errors = load_text("[ring]\nentries = 4096\ncompletion_entries = 1024").unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("3:22: ring.completion_entries: 1024 is less than ring.entries"),
        "{errors:?}"
    );
}

#[test]
fn a_program_gets_every_problem_too() {
    let mut config = Config {
        listen: Vec::new(),
        shards: Some(0),
        cores: Some(vec![1, 1]),
        ..Config::default()
    };
    config.client.outbox_bytes = 1 << 20;
    config.ring.buffers = 100;
    config.http.websocket_paths = vec!["x".into()];
    let errors: Vec<String> = config
        .check()
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    let starts = [
        "listen:",
        "shards:",
        "cores:",
        "http.websocket_paths:",
        "ring.buffers:",
        "client.outbox_bytes:",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}");
    }
    assert_eq!(Config::default().check(), Ok(Config::default()));
}
