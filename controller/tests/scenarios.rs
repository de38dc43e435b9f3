//! Folders of manifests replayed without a server: the compiled table and the verdicts, as text, are compared with
//! `expect.txt`. `UPDATE_EXPECT=1 cargo test -p ringway-controller --test scenarios` writes them anew; read the diff.
//!
//! A scenario is `scenarios/CLAIM/{fleet,clusters/NAME}/*.yaml`. With a folder `events/NN-name/` it goes on: each is
//! laid over the directory in order (a file `gone.txt` lists paths to delete), and what follows is appended.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use controller::compile::{Compiler, CompilerSettings, Defaults, Place};
use controller::dump;
use controller::merge::Loopback;
use controller::verdict::Outcome;
use controller::watch::Observation;
use controller::watch::files::Directory;
use controller::world::World;

struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&source, &target);
        } else {
            // Atomic, as `Directory` expects of those who replace files.
            let swap = target.with_extension("swap");
            fs::copy(&source, &swap).unwrap();
            fs::rename(&swap, &target).unwrap();
        }
    }
}

struct Replay {
    directory: Directory,
    world: World,
    compiler: Compiler,
}

impl Replay {
    fn new(root: &Path, place: &Place) -> Self {
        let listen: SocketAddr = "[::]:8080".parse().unwrap();
        let settings = CompilerSettings {
            listen: vec![listen.into()],
            series_max: 1000,
            loopback: Loopback::Allowed,
            defaults: Defaults { place: place.clone(), ..Defaults::default() },
        };
        let mut replay = Self {
            directory: Directory::new(root),
            world: World::default(),
            compiler: Compiler::new(settings),
        };
        replay.look();
        replay.world.observe(Observation::Synced);
        let _ = replay.compiler.compile(&mut replay.world);
        replay
    }

    fn look(&mut self) {
        for observation in self.directory.scan() {
            self.world.observe(observation);
        }
        let before = self.compiler.table().clone();
        let delta = self.compiler.compile(&mut self.world);
        let mut after = before;
        after.apply(&delta);
        assert!(routing::delta::diff(&after, self.compiler.table()).is_empty());
    }

    fn text(&self) -> String {
        let mut out = dump::table(self.compiler.table());
        for verdict in self.compiler.verdicts(&self.world) {
            if verdict.outcome == Outcome::Accepted && verdict.notes.is_empty() {
                continue;
            }
            let object = verdict.object.as_ref().map_or("(file)".to_owned(), ToString::to_string);
            writeln!(out, "{}: {} {object}", verdict.outcome, verdict.origin).unwrap();
            for note in &verdict.notes {
                writeln!(out, "    {} {:?} {}", note.field, note.value, note.reason).unwrap();
            }
        }
        out
    }
}

/// Where the node is, by the `gateway.toml` beside the manifests; unknown without one.
fn place_of(folder: &Path) -> Place {
    let text = fs::read_to_string(folder.join("gateway.toml")).unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
        Arc::from(line.unwrap_or_default().trim().trim_matches('"'))
    };
    Place { region: value("region"), zone: value("zone") }
}

fn replay(name: &str, from: &Path) -> String {
    let place = place_of(from);
    let temp = Temp::new(name);
    for part in ["fleet", "clusters"] {
        if from.join(part).is_dir() {
            fs::create_dir_all(temp.0.join(part)).unwrap();
            copy(&from.join(part), &temp.0.join(part));
        }
    }
    let mut replay = Replay::new(&temp.0, &place);
    let mut out = replay.text();
    let mut events: Vec<PathBuf> = match fs::read_dir(from.join("events")) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    events.sort();
    for event in events {
        copy(&event, &temp.0);
        let gone = temp.0.join("gone.txt");
        if let Ok(paths) = fs::read_to_string(&gone) {
            for path in paths.lines() {
                let path = temp.0.join(path);
                if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
            }
            fs::remove_file(&gone).unwrap();
        }
        replay.look();
        writeln!(out, "\n=== after {}\n", event.file_name().unwrap().to_string_lossy()).unwrap();
        out.push_str(&replay.text());
        // What was arrived at step by step is what a fresh start would compile, except that a fresh start has no
        // last good content of a broken file to keep.
        if event.to_string_lossy().ends_with("broken") {
            continue;
        }
        let fresh = Replay::new(&temp.0, &place);
        assert_eq!(
            dump::table(fresh.compiler.table()),
            dump::table(replay.compiler.table()),
            "{name}: the incremental table differs from a fresh one"
        );
    }
    out
}

fn compare(name: &str, from: &Path, expect: &Path) -> Result<(), String> {
    let text = replay(name, from);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(expect, &text).unwrap();
        return Ok(());
    }
    let expected = fs::read_to_string(expect).unwrap_or_default();
    if expected == text { Ok(()) } else { Err(format!("--- {name}: expected\n{expected}\n--- got\n{text}")) }
}

fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    assert!(!found.is_empty(), "{} is empty", folder.display());
    found
}

#[test]
fn every_scenario_compiles_to_what_it_expects() {
    let mut wrong = Vec::new();
    for scenario in all_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")) {
        let name = scenario.file_name().unwrap().to_string_lossy().into_owned();
        wrong.extend(compare(&name, &scenario, &scenario.join("expect.txt")).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_example_compiles_to_what_it_expects_and_nothing_of_it_is_refused() {
    let mut wrong = Vec::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    for example in all_below(&examples) {
        let name = example.file_name().unwrap().to_string_lossy().into_owned();
        let expects = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples");
        fs::create_dir_all(&expects).unwrap();
        wrong.extend(compare(&name, &example, &expects.join(format!("{name}.txt"))).err());
        let report = controller::check_dir(&example, &["[::]:8080".parse::<SocketAddr>().unwrap()]);
        assert!(!report.refused(), "{name}\n{report}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_crds_on_disk_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/crds");
    let mut names = Vec::new();
    for (file, yaml) in controller::crds() {
        let text = format!("# Generated from controller/src/crd.rs; `ringway crds` prints it.\n{yaml}");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(folder.join(file), &text).unwrap();
        }
        let on_disk = fs::read_to_string(folder.join(file)).unwrap_or_default();
        assert_eq!(on_disk, text, "config/crds/{file} is stale: run with UPDATE_EXPECT=1");
        names.push(file.to_owned());
    }
    let mut found: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, names);
}
