//! The file, the types and the table of keys say the same thing; what is wrong is named with what is allowed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use config::{Config, ConfigError, DEFAULT_TOML, Invalid, KEYS, ListenAddr, Overrides, Period, Reload};
use toml::{Table, Value};

#[test]
fn gateway_toml_is_the_defaults() {
    assert_eq!(Config::parse(DEFAULT_TOML).unwrap(), Config::default());
    assert_eq!(Config::parse("").unwrap(), Config::default());
    Config::default().validate().unwrap();
}

#[test]
fn file_types_and_table_have_the_same_keys_in_the_same_order() {
    let file = keys_of(&DEFAULT_TOML.parse().unwrap());
    let types = keys_of(&Table::try_from(Config::default()).unwrap());
    let table: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    assert_eq!(file, types, "gateway.toml against Config::default()");
    assert_eq!(table, types, "KEYS against Config::default()");
    assert_eq!(table.len(), KEYS.len(), "a key stands twice in KEYS");

    let in_file: Vec<String> = commented_keys().into_iter().map(|(name, _)| name).collect();
    let in_table: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(in_file, in_table, "the order of gateway.toml against KEYS");
}

#[test]
fn every_key_is_commented_with_its_reload_and_the_limit_it_counts_as() {
    let mut wrong = Vec::new();
    for ((name, comment), key) in commented_keys().into_iter().zip(KEYS) {
        let reload = match key.reload {
            Reload::Live => "live",
            Reload::Restart => "restart",
        };
        let mark = match key.limit {
            None => format!("[{reload}]"),
            Some(limit) => format!("[{reload}, limit={limit}]"),
        };
        if !comment.ends_with(&mark) {
            wrong.push(format!("{name}: the comment must end with {mark}, it is {comment:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_limit_has_its_own_name() {
    let limits: Vec<&str> = KEYS.iter().filter_map(|key| key.limit).collect();
    let distinct: BTreeSet<&&str> = limits.iter().collect();
    assert_eq!(limits.len(), distinct.len());
    // What is beyond this one is shown where it is: as the series `other`.
    let is_shown = |name: &str| name == "observe.metrics_series_max";
    let bounds = KEYS.iter().filter(|key| key.name.ends_with("_max") && !key.name.starts_with("worker."));
    for key in bounds.filter(|key| !is_shown(key.name)) {
        assert!(key.limit.is_some(), "{} bounds something, and reaching it is not counted", key.name);
    }
}

#[test]
fn a_value_out_of_range_is_named_with_what_is_allowed_and_all_are_reported() {
    let text = "[worker]\ncount = -1\n[limits]\nheaders_max = 0\nhead_bytes_max = \"3 parsecs\"\n[timeouts]\nheader = 5\n";
    let invalid = invalid(Config::parse(text));
    let lines: Vec<String> = invalid.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "worker.count = -1: allowed is a whole number from 0 to 1024",
            "limits.head_bytes_max = \"3 parsecs\": allowed is a size from \"1KiB\" to \"1MiB\" (units B, KiB, MiB, GiB)",
            "limits.headers_max = 0: allowed is a whole number from 1 to 1000",
            "timeouts.header = 5: allowed is a time from \"100ms\" to \"1h\" (units us, ms, s, m, h)",
        ]
    );
}

#[test]
fn both_ends_of_every_range_are_accepted_and_one_beyond_is_not() {
    for key in KEYS {
        let (good, bad): (Vec<Value>, Vec<Value>) = match key.range {
            config::Range::Number(min, max) => {
                let (min, max) = (i64::try_from(min).unwrap(), i64::try_from(max).unwrap());
                (vec![min.into(), max.into()], vec![(min - 1).into(), (max + 1).into()])
            }
            config::Range::Size(min, max) => {
                let beyond = format!("{}B", max.get() + 1);
                (
                    vec![min.to_string().into(), max.to_string().into()],
                    vec![beyond.into(), "1".into(), "-1B".into()],
                )
            }
            config::Range::Time(min, max) => {
                let beyond = format!("{}ns", max.get().as_nanos() + 1);
                (
                    vec![min.to_string().into(), max.to_string().into()],
                    vec![beyond.into(), "1".into(), 1.into()],
                )
            }
            config::Range::Word(min, max) => {
                let of = |len: usize| Value::from("a".repeat(len));
                (vec![of(min), of(max)], vec![of(max + 1), "a b".into(), "a\nb".into()])
            }
            config::Range::List(_, max) => (vec![], vec![Value::from(vec!["::/0"; max + 1])]),
            config::Range::Typed => continue,
        };
        for value in good {
            Config::parse(&one_key(key.name, &value)).unwrap_or_else(|why| panic!("{}: {why}", key.name));
        }
        for value in bad {
            let found = invalid(Config::parse(&one_key(key.name, &value)));
            assert_eq!((found[0].key, found.len()), (key.name, 1), "{value}");
        }
    }
}

#[test]
fn an_unknown_key_and_a_wrong_type_are_named_with_their_line() {
    for (text, part) in [
        ("[limits]\nheader_max = 3\n", "header_max"),
        ("[limitz]\n", "limitz"),
        ("[worker]\npin = \"Yes\"\n", "pin"),
        ("[worker]\nring_flags = \"fast\"\n", "ring_flags"),
        ("[forward]\ntrusted_cidrs = [\"10.0.0.0/33\"]\n", "10.0.0.0/33"),
        ("listen = [\"localhost:80\"]\n", "localhost:80"),
        ("[observe]\naccess_log = \"Stdout\"\n", "access_log"),
        ("listen = \n", "line 1"),
    ] {
        let Err(ConfigError::Syntax(message)) = Config::parse(text) else { panic!("{text:?} was accepted") };
        assert!(message.contains(part) && message.contains("line"), "{text:?} gave {message}");
    }
}

#[test]
fn relations_between_keys_are_checked() {
    let cases = [
        ("listen = [\"[::]:443/https\", \"[::]:443\"]", "listen", "each address once"),
        ("listen = [\"[::]:80\", \"[::]:80/http\"]", "listen", "each address once"),
        ("listen = []", "listen", "a list of 1 to 256 entries"),
        ("manifests = \"\"", "manifests", "not empty"),
        ("worker.ring_entries = 100", "worker.ring_entries", "a power of two"),
        ("worker.cq_entries = 128", "worker.cq_entries", "at least worker.ring_entries (256)"),
        (
            "limits.head_bytes_max = \"4KiB\"\nlimits.uri_bytes_max = \"1KiB\"",
            "limits.header_line_bytes_max",
            "at most",
        ),
        ("limits.retry_bodies_bytes_max = \"1KiB\"", "limits.retry_bodies_bytes_max", "at least"),
    ];
    for (text, key, allowed) in cases {
        let found = invalid(Config::parse(text).and_then(|config| config.validate().map(|()| config)));
        assert_eq!((found[0].key, found.len()), (key, 1), "{text}: {found:?}");
        assert!(found[0].allowed.contains(allowed), "{text}: {}", found[0]);
    }
}

#[test]
fn the_command_line_beats_the_file_and_the_file_beats_the_defaults() {
    let dir = std::env::temp_dir().join(format!("ringway-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("gateway.toml");
    std::fs::write(&path, "listen = [\"127.0.0.1:1\"]\nmanifests = \"/a\"\n[worker]\ncount = 3\n").unwrap();
    let listen: ListenAddr = "127.0.0.1:2".parse().unwrap();
    let overrides = Overrides {
        listen: Some(vec![listen]),
        manifests: Some(PathBuf::from("/b")),
        fleet_kubeconfig: None,
        workers: None,
        admin: None,
    };

    let config = Config::load(Some(&path), &overrides).unwrap();
    assert_eq!(config.listen, [listen]);
    assert_eq!(config.manifests.path(), PathBuf::from("/b"));
    assert_eq!(config.worker.count, 3);
    assert_eq!(config.timeouts, Config::default().timeouts);
    // The command line is held to the same ranges.
    let too_many = Overrides { workers: Some(5_000), ..Overrides::default() };
    assert_eq!(invalid(Config::load(Some(&path), &too_many))[0].key, "worker.count");

    // A file is named before what is wrong in it.
    let said = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), &Overrides::default()).unwrap_err().to_string()
    };
    for text in ["[limits]\nnothing = 1\n", "[limits]\nheaders_max = 0\n"] {
        assert!(said(text).starts_with(&format!("{}:\n", path.display())), "{}", said(text));
    }

    std::fs::remove_dir_all(&dir).unwrap();
    let Err(ConfigError::Read { path: named, .. }) = Config::load(Some(&path), &overrides) else {
        panic!("a missing file was accepted");
    };
    assert_eq!(named, path);
}

#[test]
fn a_path_that_is_not_utf8_is_an_error_and_not_a_panic() {
    use std::os::unix::ffi::OsStringExt;
    let path = PathBuf::from(std::ffi::OsString::from_vec(vec![b'/', 0xff]));
    let overrides = Overrides { manifests: Some(path), ..Overrides::default() };
    assert_eq!(invalid(Config::load(None, &overrides))[0].key, "manifests");
}

#[test]
fn a_reload_applies_live_keys_and_names_those_that_wait() {
    let running = Config::default();
    let mut new = running.clone();
    new.timeouts.header = Period::secs(9);
    new.forward.trusted_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
    new.worker.count = 7;
    new.listen[0].addr.set_port(81);

    let reloaded = running.reload(&new).unwrap();
    assert_eq!(names(&reloaded.applied), ["timeouts.header", "forward.trusted_cidrs"]);
    assert_eq!(names(&reloaded.waiting), ["listen", "worker.count"]);
    assert_eq!(reloaded.config.timeouts, new.timeouts);
    assert_eq!(reloaded.config.forward, new.forward);
    assert_eq!((&reloaded.config.worker, &reloaded.config.listen), (&running.worker, &running.listen));

    let same = running.reload(&running).unwrap();
    assert!(same.applied.is_empty() && same.waiting.is_empty());
    assert_eq!(same.config, running);
}

fn names(keys: &[&'static config::Key]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}

fn invalid<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> Vec<Invalid> {
    match result {
        Err(ConfigError::Invalid(all)) => all,
        Err(ConfigError::InFile { error, .. }) => invalid::<T>(Err(*error)),
        other => panic!("expected values that are not allowed, got {other:?}"),
    }
}

fn one_key(name: &str, value: &Value) -> String {
    format!("{name} = {value}")
}

/// All keys of a table, sections joined by a dot.
fn keys_of(table: &Table) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (name, value) in table {
        match value.as_table() {
            None => drop(keys.insert(name.clone())),
            Some(section) => keys.extend(section.keys().map(|key| format!("{name}.{key}"))),
        }
    }
    keys
}

/// The keys of `gateway.toml` in its order, each with the comment above it.
fn commented_keys() -> Vec<(String, String)> {
    let (mut section, mut comment, mut keys) = (String::new(), String::new(), Vec::new());
    for line in DEFAULT_TOML.lines().map(str::trim) {
        if line.is_empty() {
            comment.clear();
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
            comment.clear();
        } else if let Some((name, _)) = line.split_once(" = ") {
            keys.push((format!("{section}{name}"), std::mem::take(&mut comment)));
        }
    }
    keys
}
