//! What manifests and lints cannot hold: file sizes, who imports whom, where `unsafe` may stand, what may stand nowhere.
//!
//! Reads the tree as text. Each rule is a function from text to findings that has been shown a text which breaks it
//! (`each_rule_finds_what_breaks_it`), so that a rule which finds nothing is known to have looked.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

/// Lines of a source file at most, its tests apart.
const FILE_LINES_MAX: usize = 600;

/// Our crates, and which of ours each may depend on (tests apart).
const MAY_IMPORT: [(&str, &[&str]); 7] = [
    ("wire", &[]),
    ("config", &[]),
    ("routing", &["wire"]),
    ("controller", &["routing", "config"]),
    ("gateway", &["wire", "routing", "config", "controller", "loadgen"]),
    ("loadgen", &["wire"]),
    ("loadtest", &["loadgen"]),
];

/// Code that may stand nowhere: a token sequence, and why.
const FORBIDDEN: [(&str, &str); 5] = [
    ("#[ignore", "a test that does not run proves nothing"),
    ("#[should_panic", "assert on the error instead"),
    ("thread::sleep", "wait for the event, with a deadline"),
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
];

#[test]
fn source_files_are_short_tests_apart() {
    report(sources().iter().filter(|file| !file.is_test()).filter_map(|file| {
        let lines = lines_without_tests(&file.text);
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines, at most {FILE_LINES_MAX}", file.path))
    }));
}

/// A Debian that has nothing but Rust lacks what links: whoever builds brings it.
#[test]
fn scripts_that_build_source_what_finds_cargo_and_a_compiler() {
    let scripts = fs::read_dir(root().join("scripts")).unwrap().map(|entry| entry.unwrap().path());
    report(scripts.filter(|path| path.file_name().is_some_and(|name| name != "rust")).filter_map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        builds_alone(&text).then(|| format!("{}: builds without `. scripts/rust`", path.display()))
    }));
}

fn builds_alone(script: &str) -> bool {
    let mut code = script.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
    let builds = ["cargo build", "cargo test", "cargo clippy", "cargo fuzz", "} test -p "];
    code.clone().any(|line| builds.iter().any(|word| line.contains(word)))
        && !code.any(|line| line == ". scripts/rust")
}

#[test]
fn security_names_tests_and_bounds_that_exist() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    assert!(text.matches(".rs::").count() > 44, "most rows name a test");
    report(unheld(&text, |path| fs::read_to_string(root().join(path)).ok()));
}

/// The words in backticks that are a test (`file.rs::name`), a folder of scenarios or a key of gateway.toml, and are not there.
fn unheld(text: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let words = text.split('`').skip(1).step_by(2);
    let is_missing = |word: &&str| match word.split_once("::") {
        Some((path, name)) => !read(path).is_some_and(|file| file.contains(&format!("fn {name}("))),
        None if word.starts_with("controller/tests/") => !root().join(word).is_dir(),
        None => {
            let is_key = |part: &str| {
                part.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
            };
            let key = word.split_once('.').filter(|(section, key)| is_key(section) && is_key(key));
            key.is_some() && !config::KEYS.iter().any(|known| known.name == *word)
        }
    };
    words.filter(is_missing).map(|word| format!("SECURITY.md: {word} does not exist")).collect()
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let mut findings = Vec::new();
    for (name, allowed) in MAY_IMPORT {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        findings.extend(
            foreign_dependencies(&manifest, allowed).into_iter().map(|found| format!("{name}: {found}")),
        );
    }
    report(findings);
}

#[test]
fn every_crate_of_the_workspace_has_its_row() {
    let manifest: Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let mut members: Vec<&str> =
        manifest["workspace"]["members"].as_array().unwrap().iter().filter_map(toml::Value::as_str).collect();
    let mut rows: Vec<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    members.sort_unstable();
    rows.sort_unstable();
    assert_eq!(members, rows);
}

#[test]
fn routing_sees_only_the_heads_of_wire() {
    report(sources().iter().filter(|file| file.path.starts_with("routing/src/")).flat_map(|file| {
        uses_of("wire", &file.code)
            .into_iter()
            .filter(|rest| !rest.starts_with("::head"))
            .map(|rest| format!("{}: wire{rest}", file.path))
            .collect::<Vec<_>>()
    }));
}

#[test]
fn only_the_binary_sees_controller_and_loadgen() {
    let is_binary = |path: &str| path == "gateway/src/main.rs" || path.starts_with("gateway/src/cli/");
    report(
        sources()
            .iter()
            .filter(|file| file.path.starts_with("gateway/src/") && !is_binary(&file.path))
            .flat_map(|file| {
                ["controller", "loadgen"]
                    .into_iter()
                    .flat_map(|krate| {
                        uses_of(krate, &file.code).into_iter().map(move |rest| format!("{krate}{rest}"))
                    })
                    .map(|found| format!("{}: {found}", file.path))
                    .collect::<Vec<_>>()
            }),
    );
}

#[test]
fn unsafe_code_stands_only_where_it_is_allowed() {
    report(sources().iter().filter(|file| !unsafe_is_allowed(file)).flat_map(|file| {
        words(&file.code)
            .filter(|(_, word)| *word == "unsafe")
            .map(|(at, _)| format!("{}: unsafe in line {}", file.path, line_of(&file.code, at)))
            .collect::<Vec<_>>()
    }));
}

#[test]
fn nothing_forbidden_stands_anywhere() {
    report(
        sources()
            .iter()
            .flat_map(|file| forbidden(&file.code).map(move |found| format!("{}: {found}", file.path))),
    );
}

#[test]
fn no_text_cites_line_numbers_or_paths_of_one_machine() {
    report(texts().iter().flat_map(|file| {
        let cited =
            citations(&file.text).into_iter().map(|found| format!("cites {found}: name the item instead"));
        let paths =
            machine_paths(&file.text).map(|found| format!("names {found}, which only one machine has"));
        cited.chain(paths).map(|found| format!("{}: {found}", file.path)).collect::<Vec<_>>()
    }));
}

#[test]
fn every_metric_is_listed_in_the_readme() {
    let observe: Vec<File> =
        sources().into_iter().filter(|file| file.path.starts_with("gateway/src/observe")).collect();
    if observe.is_empty() {
        // Until there is a module that exports metrics, there must be no README that promises any.
        let readme = fs::read_to_string(root().join("README.md")).unwrap_or_default();
        return report(
            metric_names(&readme).into_iter().map(|name| format!("README.md: {name} is exported nowhere")),
        );
    }
    let readme = fs::read_to_string(root().join("README.md")).expect("metrics are listed in README.md");
    // A histogram is listed by its name; its buckets are series of it, not metrics.
    let is_series = |name: &String| name.ends_with("_bucket");
    let names: Vec<String> =
        observe.iter().flat_map(|file| metric_names(&file.text)).filter(|name| !is_series(name)).collect();
    assert!(
        !names.is_empty(),
        "gateway/src/observe names no metric in full (ringway_…): nothing can be compared"
    );
    report(unlisted(&names, &readme).map(|name| format!("{name} is not listed in README.md")));
}

#[test]
fn each_rule_finds_what_breaks_it() {
    assert_eq!(lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {\nc\n}\n"), 2);
    assert_eq!(lines_without_tests("a\nb\nc\n"), 3);

    let file = |path: &str| (path == "a.rs").then(|| "fn holds() {}".to_owned());
    assert_eq!(unheld("`a.rs::holds` `limits.headers_max` `Upgrade: h2c`", file), Vec::<String>::new());
    assert_eq!(
        unheld("`a.rs::hold` `b.rs::holds` `limits.headers` `controller/tests/scenarios/none`", file).len(),
        4
    );

    assert!(builds_alone("# . scripts/rust\n  cargo build --release\n"));
    assert!(!builds_alone(". scripts/rust\ncargo build\n") && !builds_alone("# cargo build\necho\n"));

    let manifest = "[dependencies]\nwire = { workspace = true }\nserde = '1'\nx = { path = '../x', package = 'ringway-config' }\n";
    assert_eq!(foreign_dependencies(manifest, &["wire"]), ["may not depend on config"]);
    assert_eq!(foreign_dependencies(manifest, &[]), ["may not depend on wire", "may not depend on config"]);

    assert_eq!(
        uses_of("wire", "use wire::head::X; use wire::{h1}; let a = wire::h1::f(); extern crate wire;").len(),
        4
    );
    assert_eq!(
        uses_of("wire", "crate::wire::x(); rewire::x(); wire_x(); self.wire.y(); super::wire::z()"),
        [""; 0]
    );

    let code = code_of(
        "/* unsafe /* nested */ unsafe */ // unsafe\nlet a = \"unsafe \\\" unsafe\"; r#\"unsafe \" unsafe\"#;\nlet c = '\"'; unsafe { f::<'static>('\\'') } // todo!",
    );
    let found: Vec<usize> =
        words(&code).filter(|(_, word)| *word == "unsafe").map(|(at, _)| line_of(&code, at)).collect();
    assert_eq!(found, [3]);
    assert!(words(&code_of("unsafe_code")).all(|(_, word)| word != "unsafe"));

    for (token, _) in FORBIDDEN {
        assert_eq!(forbidden(&code_of(&format!("fn f() {{ {token} }}"))).count(), 1, "{token}");
        assert_eq!(forbidden(&code_of(&format!("// {token}"))).count(), 0, "{token} in a comment");
    }

    // Written with another sign, so that this file does not break the rule itself.
    let cited = "see relay.rs§12 and `a/b.rs§7`, not a.rs§ 5, nor b.rs§§f".replace('§', ":");
    let expected = ["relay.rs§12", "a/b.rs§7"].map(|name| name.replace('§', ":"));
    assert_eq!(citations(&cited), expected);
    assert_eq!(machine_paths(&format!("{}main", machine_path())).count(), 1);
    assert_eq!(
        metric_names("x(\"ringway_a_total\"); `ringway_b_seconds{l}`"),
        ["ringway_a_total", "ringway_b_seconds"]
    );
    let names = ["ringway_a_total".to_owned(), "ringway_b".to_owned()];
    assert_eq!(unlisted(&names, "`ringway_a_total`, `ringway_b_bytes`").collect::<Vec<_>>(), ["ringway_b"]);
}

#[test]
fn the_tree_is_really_read() {
    let paths: Vec<String> = sources().into_iter().map(|file| file.path).collect();
    for (name, _) in MAY_IMPORT {
        assert!(
            paths.iter().any(|path| path.starts_with(&format!("{name}/src/"))),
            "no source of {name} was read"
        );
    }
    assert!(paths.contains(&"config/tests/tidy.rs".to_owned()));
}

// ---------------------------------------------------------------- rules

/// Lines before the test module, which stands at the end of a file.
fn lines_without_tests(text: &str) -> usize {
    let tests = text.lines().position(|line| line == "#[cfg(test)]").filter(|at| {
        // An item that is only for tests in the middle of a file is not the test module.
        text.lines().nth(at + 1).is_some_and(|next| next.starts_with("mod "))
    });
    tests.unwrap_or_else(|| text.lines().count())
}

fn foreign_dependencies(manifest: &str, allowed: &[&str]) -> Vec<String> {
    let manifest: Table = manifest.parse().unwrap();
    let mut found = Vec::new();
    for section in ["dependencies", "build-dependencies"] {
        let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
        for (name, value) in dependencies {
            let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(name);
            let ours = package.strip_prefix("ringway-").unwrap_or(package);
            let ours = if ours == "ringway" { "gateway" } else { ours };
            if MAY_IMPORT.iter().any(|(krate, _)| *krate == ours) && !allowed.contains(&ours) {
                found.push(format!("may not depend on {ours}"));
            }
        }
    }
    found
}

/// What follows each place in `code` that names the crate `krate`: a path that begins with it, or an import of it.
fn uses_of<'c>(krate: &str, code: &'c str) -> Vec<&'c str> {
    words(code)
        .filter(|(_, word)| *word == krate)
        .filter_map(|(at, word)| {
            let (before, after) = (code[..at].trim_end(), code[at + word.len()..].trim_start());
            let is_inner = before.ends_with("::") || before.ends_with('.');
            let is_import = before.ends_with("crate") || before.ends_with("use");
            (!is_inner && (after.starts_with("::") || is_import))
                .then(|| after.split([';', ' ', '\n']).next().unwrap_or_default())
        })
        .collect()
}

fn unsafe_is_allowed(file: &File) -> bool {
    let counts_allocations = file.is_test() && file.code.contains("GlobalAlloc");
    file.path.starts_with("gateway/src/sys/")
        || file.path == "gateway/src/sys.rs"
        || file.path == "loadtest/src/ring.rs"
        || counts_allocations
}

fn forbidden(code: &str) -> impl Iterator<Item = String> {
    FORBIDDEN.iter().filter(|(token, _)| code.contains(token)).map(|(token, why)| format!("{token}: {why}"))
}

/// Mentions of a line of a source file: a name, `.rs`, a colon and a number.
fn citations(text: &str) -> Vec<&str> {
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/' | b'.');
    let bytes = text.as_bytes();
    text.match_indices(".rs:")
        .filter_map(|(at, matched)| {
            let end = at + matched.len();
            let digits = bytes[end..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let start = at - bytes[..at].iter().rev().take_while(|byte| is_path(**byte)).count();
            (digits > 0 && start < at).then(|| &text[start..end + digits])
        })
        .collect()
}

/// Where a developer's checkout may lie; put together here so that this file does not break its own rule.
fn machine_path() -> String {
    ["/wo", "rk/"].concat()
}

fn machine_paths(text: &str) -> impl Iterator<Item = String> {
    [machine_path(), ["/ro", "ot/"].concat()].into_iter().filter(|path| text.contains(path.as_str()))
}

/// Every word that begins with `ringway_`, each once, in the order of appearance.
fn metric_names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (_, word) in words(text) {
        let is_new = !names.iter().any(|name| name == word);
        if word.starts_with("ringway_") && word.len() > "ringway_".len() && is_new {
            names.push(word.to_owned());
        }
    }
    names
}

fn unlisted<'n>(names: &'n [String], readme: &str) -> impl Iterator<Item = &'n str> {
    let listed = metric_names(readme);
    names.iter().filter(move |name| !listed.contains(name)).map(String::as_str)
}

// ---------------------------------------------------------------- text

/// Identifiers, keywords and numbers with their byte offsets.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The text of a Rust file with comments, strings and characters blanked; lines stay where they are.
fn code_of(text: &str) -> String {
    let (mut code, mut rest) = (String::with_capacity(text.len()), text);
    while !rest.is_empty() {
        let skipped = match () {
            () if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            () if rest.starts_with("/*") => block_comment(rest),
            () if rest.starts_with('"') => string(rest),
            () if rest.starts_with('\'') => character(rest),
            () if rest.starts_with('r') && !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                raw_string(rest)
            }
            () => 0,
        };
        if skipped == 0 {
            let first = rest.chars().next().expect("the rest is not empty");
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            rest = &rest[skipped..];
        }
    }
    code
}

/// Length of a block comment with those nested in it.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text.as_bytes().get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            Some(_) | None => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

/// Length of a string literal with its quotes.
fn string(text: &str) -> usize {
    let (bytes, mut at) = (text.as_bytes(), 1);
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Length of a character literal; 0 for a lifetime.
fn character(text: &str) -> usize {
    let inner = &text[1..];
    if let Some(escaped) = inner.strip_prefix('\\') {
        return escaped.char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 3);
    }
    let Some(first) = inner.chars().next() else { return 0 };
    if inner[first.len_utf8()..].starts_with('\'') { first.len_utf8() + 2 } else { 0 }
}

/// Length of a raw string literal; 0 when it is none.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    if text.as_bytes().get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let (begin, end) = (hashes + 2, format!("\"{}", "#".repeat(hashes)));
    text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len())
}

// ---------------------------------------------------------------- the tree

struct File {
    /// Relative to the root, with slashes.
    path: String,
    text: String,
    /// The text without comments and literals.
    code: String,
}

impl File {
    fn is_test(&self) -> bool {
        ["/tests/", "/benches/", "/fuzz/"].iter().any(|folder| self.path.contains(folder))
            || self.path.ends_with("/tests.rs")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace").to_owned()
}

/// Every Rust file.
fn sources() -> Vec<File> {
    read(&["rs"])
}

/// Everything that people read.
fn texts() -> Vec<File> {
    let mut files = read(&["rs", "md", "toml", "yaml", "service", "tmpl"]);
    for folder in ["scripts", ".ci"] {
        let Ok(entries) = fs::read_dir(root().join(folder)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push(file(&path));
            }
        }
    }
    files
}

fn read(extensions: &[&str]) -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "corpus" {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
            {
                files.push(file(&path));
            }
        }
    }
    files
}

fn file(path: &Path) -> File {
    let text = fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let relative = path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned();
    let code = if relative.ends_with(".rs") { code_of(&text) } else { String::new() };
    File { path: relative, text, code }
}

fn report(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<String> = findings.into_iter().collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
